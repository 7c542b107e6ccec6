"""Joints cut out of phantom radiographs: what is in the table is what is in the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.errors import DataError
from simulation.cohorts import joints
from simulation.hand.grid import Layout
from simulation.hand.machines import random_machine
from simulation.hand.radiographs import draw_radiograph
from simulation.phantom.random import stream

PATIENTS, WIDTH, SIDE = 3, 160, 32


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("joints") / "made")


def made(out: Path, *, workers: int = 1) -> Path:
    return joints.write(patients=PATIENTS, width_px=WIDTH, side_px=SIDE, seed=5, out=out, workers=workers)


def test_every_place_of_every_hand_has_a_picture_of_the_whole_ones_proportions(table: Path) -> None:
    frame = pd.read_csv(table, dtype={"file": str})
    assert list(frame.columns) == list(joints.COLUMNS)
    assert frame["file"].is_unique
    assert (frame.groupby(["patient", "side"]).size() == frame["site"].nunique()).all()
    for file in frame["file"]:
        with Image.open(table.parent / file) as picture:
            assert picture.size == (SIDE, 28)


def test_a_cut_is_a_part_of_the_patients_picture_and_has_the_points_of_what_is_in_it(table: Path) -> None:
    frame = pd.read_csv(table, dtype={"file": str})
    layout = Layout(width_px=WIDTH)
    for index in range(PATIENTS):
        drawn = draw_radiograph(5, joints.PATIENTS, index)
        picture = drawn.picture(random_machine(stream(5, joints.PATIENTS, "machine", index)), layout)
        windows = np.lib.stride_tricks.sliding_window_view(picture, (28, SIDE))
        rows = frame[frame["patient"] == index]
        assert (rows["points"] <= drawn.scores.total).all()
        if drawn.scores.total:
            assert rows["points"].max() > 0
        for file in rows["file"].head(4):
            with Image.open(table.parent / file) as cut:
                assert (windows == np.asarray(cut)).all(axis=(2, 3)).any()


@pytest.mark.soak
def test_the_same_seed_cuts_the_same_whoever_draws(table: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", workers=2)
    assert other.read_bytes() == table.read_bytes()
    file = pd.read_csv(table, dtype={"file": str})["file"].iloc[-1]
    assert (other.parent / file).read_bytes() == (table.parent / file).read_bytes()


def test_what_cannot_be_is_said(table: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected nothing at"):
        made(table.parent)
    with pytest.raises(DataError, match="Expected cuts of at most 64 px"):
        joints.write(patients=1, width_px=64, side_px=65, seed=0, out=tmp_path / "x")
