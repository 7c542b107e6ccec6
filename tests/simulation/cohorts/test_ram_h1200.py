"""RAM-H1200's annotation files, on a made-up copy of their layout: phantom hands, scores as theirs are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from client.data.tables.rows import read_rows
from common.errors import ConfigurationError, DataError
from simulation.cli.cohort_cli import cohort as commands
from simulation.cohorts import public, ram_h1200
from simulation.hand.grid import Layout
from simulation.hand.machines import MACHINES
from simulation.hand.radiographs import Radiograph, draw_radiograph
from simulation.hand.sites import EROSION_SITES, NARROWING_SITES

HANDS = ("L", "R")


def scores_of(radiograph: Radiograph, side: int) -> dict[str, dict[str, int]]:
    """By their keys."""
    drawn = {
        "erosion": dict(zip(EROSION_SITES, radiograph.scores.erosion[side].tolist(), strict=True)),
        "narrowing": dict(zip(NARROWING_SITES, radiograph.scores.narrowing[side].tolist(), strict=True)),
    }
    return {
        kind: {key: drawn[kind][site] for key, site in names.items()}
        for kind, (_, names, _) in ram_h1200.KINDS.items()
    }


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Eight patients with two hands each; the pictures lie at each of the three places."""
    root, number = tmp_path / "RAM", 0
    for split, patients, inside in (
        ("train", 4, "{name}"),
        ("val", 2, "images/{name}"),
        ("test", 2, "{stem}/{name}"),
    ):
        files: dict[str, dict[str, object]] = {kind: {} for kind in ram_h1200.KINDS}
        for _ in range(patients):
            drawn = draw_radiograph(7, "ram", number)
            picture = drawn.picture(MACHINES[0], Layout(width_px=128))
            for side, letter in enumerate(HANDS):
                stem = f"P{number:04d}_{letter}"
                place = root / split / inside.format(name=f"{stem}.bmp", stem=stem)
                place.parent.mkdir(parents=True, exist_ok=True)
                half = picture[:, :64] if side == 0 else picture[:, 64:]
                Image.fromarray(np.ascontiguousarray(half)).save(place)
                for kind, scores in scores_of(drawn, side).items():
                    files[kind][f"{stem}.bmp"] = scores
            number += 1
        for kind, (file, _, _) in ram_h1200.KINDS.items():
            (root / split / file).write_text(json.dumps(files[kind]))
    return root


def table(path: Path, *columns: str) -> list[dict[str, str]]:
    return [row for _, row in read_rows(path, list(columns)).rows]


def test_sites_are_those_of_the_score() -> None:
    assert sorted(ram_h1200.EROSION.values()) == sorted(EROSION_SITES)
    assert sorted(ram_h1200.NARROWING.values()) == sorted(NARROWING_SITES)


def test_a_hand_has_the_sum_of_its_sites_and_a_patient_that_of_both_hands(
    layout: Path, tmp_path: Path
) -> None:
    ram_h1200.import_hands(layout, tmp_path / "out", patient=r"^(P\d+)_")
    manifest = table(tmp_path / "out" / "manifest.csv", "exam_id", "patient_id", "hand_path", "split")
    assert len(manifest) == 16
    assert [row["split"] for row in manifest].count("test") == 4
    given = {row["exam_id"]: row for row in table(tmp_path / "out" / "grades.csv", "exam_id", "svdh")}
    sites = table(tmp_path / "out" / "sites.csv", "exam_id", "kind", "site", "grade")
    assert len(sites) == 16 * 31
    totals = {row["patient_id"]: int(row["svdh"]) for row in table(tmp_path / "out" / "totals.csv", "svdh")}
    for number in range(8):
        drawn = draw_radiograph(7, "ram", number).scores
        assert totals[f"P{number:04d}"] == drawn.total
        rows = [row for row in manifest if row["patient_id"] == f"P{number:04d}"]
        found = sorted(int(given[row["exam_id"]]["svdh"]) for row in rows)
        assert found == sorted(drawn.by_hand.tolist())
    for row in manifest:
        mine = [int(site["grade"]) for site in sites if site["exam_id"] == row["exam_id"]]
        assert int(given[row["exam_id"]]["svdh"]) == sum(mine)
        assert (tmp_path / "out" / row["hand_path"]).is_file()


def test_the_folder_can_be_split_into_sites_by_patient(layout: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        commands,
        ["import-ram", str(layout), "--out", str(tmp_path / "out"), "--patient", r"^(P\d+)_"],
    )
    assert result.exit_code == 0, result.output
    made = public.split(
        tmp_path / "out" / "manifest.csv", by="dirichlet", sites=2, seed=1, out=tmp_path / "sites"
    )
    places: dict[str, set[str]] = {}
    for site in made.sites:
        for row in table(site.folder / "manifest.csv", "patient_id"):
            places.setdefault(row["patient_id"], set()).add(site.name)
    assert len(places) == 8
    assert all(len(sites) == 1 for sites in places.values())


def test_without_a_pattern_each_picture_is_a_patient(layout: Path) -> None:
    collection, _ = ram_h1200.read_hands(layout / "train")
    assert len({row["patient_id"] for row in collection.manifest}) == 8
    assert "split" not in collection.manifest[0]


def test_scores_that_cannot_be_are_listed(layout: Path, tmp_path: Path) -> None:
    file = layout / "train" / "_annotation_be_scores.json"
    scores = json.loads(file.read_text())
    scores["P0000_L.bmp"]["BE_R"] = 6
    del scores["P0001_R.bmp"]["BE_IP"]
    file.write_text(json.dumps(scores))
    (layout / "train" / "P0002_L.bmp").unlink()
    with pytest.raises(DataError) as raised:
        ram_h1200.import_hands(layout, tmp_path / "out")
    for said in ("P0000_L.bmp: BE_R is 6", "P0001_R.bmp: BE_IP is None", "P0002_L.bmp: no picture"):
        assert said in str(raised.value)
    with pytest.raises(ConfigurationError, match="Expected a group"):
        ram_h1200.import_hands(layout, tmp_path / "out", patient="P")
    with pytest.raises(DataError, match=r"Expected _annotation_be_scores\.json"):
        ram_h1200.import_hands(tmp_path, tmp_path / "out")
