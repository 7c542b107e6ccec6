import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from server.report.content import Json
from server.report.examples import Example, write_examples
from server.report.page import write
from tests.server.report.test_report import Page, full_scores, make

CONFIG = (
    'validity = "eoss"\n[images.gs]\nkind = "grey"\n[images.doppler]\nkind = "doppler"\n'
    "[cohort.phantom]\nsites = 2\n[evaluate]\nbootstrap = 100\n"
)


Interval: TypeAlias = tuple[float | None, float | None, float | None]


def estimate(value: float | None, low: float | None, high: float | None) -> Json:
    return {"value": value, "ci95": [low, high]}


def compared(*, empty: int = 0, shuffled: Interval = (0.03, 0.02, 0.04)) -> Json:
    image = {
        "exams": 30,
        "empty": empty,
        "inside": estimate(0.0413, 0.03, 0.05),
        "chance": estimate(0.027, 0.02, 0.031),
        "ratio": estimate(1.53, 1.21, 1.87),
        "shuffled": estimate(*shuffled),
        "inside_minus_chance": estimate(0.0143, 0.01, 0.02),
        "inside_minus_shuffled": estimate(0.0112, -0.0021, 0.02),
    }
    return {
        "measurement": "hypertrophy", "exams": 30, "patients": 28, "networks": 10, "steps": 50, "copies": 8,
        "noise_sigma": 1.0, "cut": 0.2, "seconds": 60.0, "images": {"gs": image, "doppler": image},
    }  # fmt: skip


def page_of(folder: Path, heatmaps: Json, *, shown: Sequence[Example] = ()) -> str:
    run = make(folder, scores=full_scores() | {"heatmaps": heatmaps}, config=CONFIG)
    if shown:
        write_examples(run / "figures" / "heatmaps", shown)
    return write(run).read_text(encoding="utf-8")


def test_the_share_inside_is_shown_beside_chance_and_other_patients(tmp_path: Path) -> None:
    text = Page(page_of(tmp_path / "run", compared())).text
    assert "Where the networks look" in text
    assert "speak for hypertrophy > 0" in text
    assert "30 held-out exams with synovium, of 28 patients" in text
    row = "GS 4.1 % 3.0 to 5.0 2.7 % 2.0 to 3.1 1.53 1.21 to 1.87 3.0 % 2.0 to 4.0 +1.1 -0.2 to +2.0"
    assert row in text
    assert "all true flow is inside the synovium" in text
    assert "left out" not in text
    assert (
        text.split("Where the networks look")[1].strip().startswith("no differential privacy on the phantom")
    )


def test_examples_have_a_text_for_those_who_cannot_see_them(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    grades = {"hypertrophy": 2, "vascularity": 1}
    shown = [
        Example(exam_id="e1", site="site-a", pictures={"gs": picture}, reference=grades, decision=grades)
    ]
    html = page_of(tmp_path / "run", compared(), shown=shown)
    assert 'alt="GS of site-a · e1, its heatmap in yellow, the true synovium outlined"' in html
    assert "Examples: heatmap in yellow" in Page(html).text


def test_what_cannot_be_computed_and_empty_heatmaps_are_said(tmp_path: Path) -> None:
    heatmaps = compared(empty=2, shuffled=(None, None, None))
    heatmaps["images"]["gs"]["inside_minus_shuffled"] = estimate(None, None, None)
    text = Page(page_of(tmp_path / "run", json.loads(json.dumps(heatmaps)))).text
    assert "2 exams without a heatmap left out" in text
    assert "1.21 to 1.87 n/a n/a" in text
    assert "None" not in text


def test_a_run_without_heatmaps_has_no_such_section(tmp_path: Path) -> None:
    page = write(make(tmp_path / "run", scores=full_scores(), config=CONFIG))
    assert "Where the networks look" not in page.read_text(encoding="utf-8")
