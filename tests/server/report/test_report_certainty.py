import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from common.evaluation.histograms import ScoreHistograms
from server.report.page import write
from simulation.evaluation.blocks.calibration import Validation
from simulation.evaluation.metrics import metrics
from tests.server.report.test_report import Page, data_of, full_scores, make, settings, table

HEADING = "How far probabilities can be trusted"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scores = np.linspace(0, 1, 60)
    told = Validation(networks=2, histograms=ScoreHistograms.from_scores(scores, scores > 0.4))
    full = metrics(
        table(settings(), right=0.7, seed=4),
        settings=settings(),
        baselines={"centralised": table(settings(), right=0.8, seed=1)},
        validation={("hypertrophy", 1): told},
    )
    folder = make(tmp_path_factory.mktemp("certainty") / "run", scores=full)
    write(folder)
    return folder


def test_each_task_has_an_roc_curve_and_a_reliability_diagram_of_every_set(run: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())["calibration"]["tasks"]["hypertrophy"]["gt1"]
    curves = data_of(run, "roc_hypertrophy_gt1")
    labels = [f"{name} {found[key]['auc']['value']:.2f}" for key, name in (
        ("validation", "validation"), ("centralised", "pooled"), ("federated", "held out"),
    )]  # fmt: skip
    assert list(dict.fromkeys(row["line"] for row in curves)) == labels
    held_out = [(float(row["x"]), float(row["y"])) for row in curves if row["line"] == labels[2]]
    assert held_out == list(zip(*found["federated"]["roc"], strict=True))
    groups = [row for row in data_of(run, "reliability_hypertrophy_gt1") if row["line"] == "held out"]
    assert [int(row["exams"]) for row in groups] == [g["exams"] for g in found["federated"]["reliability"]]
    assert all(float(row["ci95_low"]) <= float(row["y"]) <= float(row["ci95_high"]) for row in groups)
    told = [row for row in data_of(run, "reliability_hypertrophy_gt1") if row["line"] == "validation"]
    assert sum(int(row["exams"]) for row in told) == 60
    assert {row["ci95_low"] for row in told} == {""}, "exams are counted once a network: no interval"
    assert {row["line"] for row in data_of(run, "reliability_vascularity_gt1")} == {"pooled", "held out"}


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("roc_hypertrophy_gt1", {"1 - specificity", "sensitivity"}),
        ("reliability_hypertrophy_gt1", {"mean probability", "exams above the cut"}),
    ],
)
def test_axes_say_what_they_are_and_in_what_unit(run: Path, name: str, axes: set[str]) -> None:
    root = ElementTree.parse(run / "figures" / f"{name}.svg").getroot()
    words = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert axes | {"0%", "50%", "100%"} <= words


def test_the_page_says_what_each_set_is_and_gives_the_numbers(run: Path) -> None:
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    found = json.loads((run / "metrics.json").read_text())["calibration"]["tasks"]["hypertrophy"]["gt1"]
    assert HEADING in page.text
    assert "Validation is all that left the sites" in page.text
    assert "Own networks are those" not in page.text
    row = page.text[page.text.index("Calibration error, points Validation Held out Pooled By chance") :]
    for key in ("validation", "federated", "centralised"):
        assert f"{100 * found[key]['ece']['value']:.1f}" in row
        assert f"{found[key]['brier']['value']:.3f}" in row
    assert f"{100 * found['federated']['ece_by_chance']:.1f}" in row


def test_a_run_of_an_earlier_version_or_without_such_networks_has_no_such_section(tmp_path: Path) -> None:
    for name, calibration in (("earlier", None), ("none", {"models": 1, "tasks": {}})):
        scores = {**full_scores(), "calibration": calibration}
        page = Page(write(make(tmp_path / name, scores=scores)).read_text(encoding="utf-8"))
        assert HEADING not in page.text
        assert "Agreement with the reference" in page.text
