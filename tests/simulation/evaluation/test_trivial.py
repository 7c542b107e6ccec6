import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from client.data.site_store import site_store
from client.site.site import Site
from common.settings import parse
from simulation.cohorts.cohort import discover
from simulation.evaluation import trivial
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder, read_table, write_table

SETTINGS = parse(CONFIG.format(folder="unused"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            tmp_path / "cohort" / name,
            name=name,
            patients=9,
            exams_per_patient=4,
            seed=seed,
            held_out_patients=3,
        )
    return tmp_path / "cohort"


def labels(folder: Path, split: str) -> pd.DataFrame:
    """Grades of the exams of a split, as the tables have them."""
    parts = []
    for site in sorted(folder.iterdir()):
        manifest, grades = (pd.read_csv(site / name) for name in ("manifest.csv", "grades.csv"))
        parts.append(manifest[manifest["split"] == split].merge(grades, on="exam_id"))
    return pd.concat(parts)


def test_the_commonest_grades_are_those_of_the_training_labels(folder: Path) -> None:
    train = labels(folder, "train")
    columns = {name: train[name] for name in ("hypertrophy", "vascularity")}
    columns["combined"] = pd.concat(columns, axis=1).max(axis=1)
    expected = {name: int(values.value_counts().sort_index().idxmax()) for name, values in columns.items()}
    assert trivial.learnt(discover(folder), SETTINGS).commonest == expected


def test_what_is_scored_teaches_nothing(folder: Path) -> None:
    before = trivial.learnt(discover(folder), SETTINGS)
    for site in folder.iterdir():
        held_out = {row["exam_id"] for row in read_table(site / "manifest.csv") if row["split"] == "test"}
        rows = read_table(site / "grades.csv")
        for row in rows:
            if row["exam_id"] in held_out:
                row |= {"hypertrophy": "3", "vascularity": "0"}
        write_table(site / "grades.csv", rows)
    assert trivial.learnt(discover(folder), SETTINGS) == before


def test_a_site_that_does_not_train_teaches_nothing(folder: Path) -> None:
    whole = discover(folder)
    fewer = type(whole)(
        folder=whole.folder,
        sites=tuple(
            type(site)(name=site.name, folder=site.folder, trains=site.name == "north")
            for site in whole.sites
        ),
    )
    north = type(whole)(folder=whole.folder, sites=tuple(s for s in whole.sites if s.name == "north"))
    assert trivial.learnt(fewer, SETTINGS) == trivial.learnt(north, SETTINGS)


def test_flow_is_counted_in_the_region_of_interest_and_cut_into_grades(folder: Path) -> None:
    """A region of 16 px that is not scaled: of the grade's colour, 20 pixels a grade, there and outside."""
    site = folder / "north"
    with (site / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    grades = {row["exam_id"]: int(row["vascularity"]) for row in read_table(site / "grades.csv")}
    for row in rows:
        pixels = np.full((40, 48, 3), 90, dtype=np.uint8)
        pixels[:4] = (255, 0, 0)  # outside of the region
        inside = np.zeros(16 * 16, dtype=bool)
        inside[: 20 * grades[row["exam_id"]]] = True
        pixels[12:28, 16:32][inside.reshape(16, 16)] = (255, 0, 0)
        Image.fromarray(pixels).save(site / row["doppler_path"])
        row["doppler_roi"] = "16 12 16 16"
    write_table(site / "manifest.csv", rows)
    store = site_store(Site.open(site), SETTINGS)
    counted = trivial.flow_columns(store, torch.arange(len(store.tensors)), SETTINGS)["flow_doppler"]
    expected = [20 * grades[exam] for exam in store.exams["exam_id"]]
    assert counted.tolist() == expected
    (folder / "south").rename(folder.parent / "elsewhere")
    learnt = trivial.learnt(discover(folder), SETTINGS)
    present = sorted(set(labels(folder, "train")["vascularity"]))
    cuts = [10 + 20 * low for low in present[:-1]]
    assert list(learnt.cuts["vascularity"])[: len(cuts)] == cuts
    answers = learnt.answers(pd.DataFrame({"flow_doppler": [0, 20]}), SETTINGS)
    assert np.asarray(answers["colour_vascularity"]).tolist() == [0, 1]
    assert set(answers) == {
        "commonest_hypertrophy", "commonest_vascularity", "commonest_combined", "colour_vascularity"
    }  # fmt: skip
