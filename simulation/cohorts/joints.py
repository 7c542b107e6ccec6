"""A folder of labelled pictures of joints, cut out of phantom radiographs: what a backbone can learn from before.

Bo et al. let their backbones learn children's hands before they learn the score; such pictures cannot be drawn here.
These show a joint and what is around it, with the points of all scored places in the cut, so that what is learnt of
them adds up over a whole hand. Cuts have the proportions of the whole picture, since a network sees both as squares.
Every patient is one of no cohort's and has a machine of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import DataError
from common.text import csv_text
from simulation.cohorts.drawing import Progress, by_site
from simulation.hand.grid import Layout
from simulation.hand.machines import random_machine
from simulation.hand.places import Scored, scored
from simulation.hand.radiographs import draw_radiograph
from simulation.phantom.random import stream

PATIENTS = "joints"
"""In place of a site's name, from which patients are drawn."""
TABLE = "labels.csv"
COLUMNS = ("file", "patient", "side", "site", "points")
BORDER = 1 / 8
"""Of a cut's side: a place that is nearer to the border is not counted, most of it may lie outside."""
Row = tuple[str, int, str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One patient whose joints are drawn."""

    seed: int
    index: int
    width_px: int
    side_px: int
    folder: Path

    @property
    def cut(self) -> tuple[int, int]:
        """Height and width of a cut."""
        layout = Layout(width_px=self.width_px)
        return round(self.side_px * layout.height_px / layout.width_px), self.side_px

    @property
    def site(self) -> str:
        """All are of one."""
        return PATIENTS


def write(
    *,
    patients: int,
    width_px: int,
    side_px: int,
    seed: int,
    out: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Draw patients, cut their joints out, and write pictures and table.

    Args:
        patients: how many, each with both hands.
        width_px: of the picture of both hands that joints are cut from.
        side_px: width of a cut, of which it is 7/8 as high.
        seed: the same gives the same pictures.
        out: folder to be made.
        workers: processes.
        progress: told of patients done.

    Returns:
        The table.

    Raises:
        DataError: if ``out`` exists, or a cut would be larger than the picture.
    """
    if out.exists():
        raise DataError(f"Expected nothing at {out} yet: choose another place, or remove what is there")
    if side_px > width_px:
        raise DataError(
            f"Expected cuts of at most {width_px} px of pictures that wide, got {side_px}: make them smaller, or the "
            f"pictures larger"
        )
    out.mkdir(parents=True)
    work = [
        Job(seed=seed, index=index, width_px=width_px, side_px=side_px, folder=out)
        for index in range(patients)
    ]
    parts = by_site(work, _write_patient, workers=workers, progress=progress)[PATIENTS]
    table = out / TABLE
    rows = [row for part in parts for row in part]
    table.write_text(csv_text.table(COLUMNS, rows), encoding="utf-8", newline="")
    return table


def _write_patient(job: Job) -> list[Row]:
    layout = Layout(width_px=job.width_px)
    machine = random_machine(stream(job.seed, PATIENTS, "machine", job.index))
    drawn = draw_radiograph(job.seed, PATIENTS, job.index)
    picture, places = drawn.picture(machine, layout), scored(drawn, layout)
    folder = job.folder / f"{job.index:05d}"
    folder.mkdir()
    rows = []
    for place in places:
        top, left = _corner(place, job.cut, picture.shape)
        path = folder / f"{place.side}-{place.site}.png"
        cut = picture[top : top + job.cut[0], left : left + job.cut[1]]
        Image.fromarray(cut).save(path, compress_level=1)
        points = _points(places, (top, left), job.cut)
        rows.append((f"{folder.name}/{path.name}", job.index, place.side, place.site, points))
    return rows


def _corner(place: Scored, cut: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    """Row and column of the upper left corner of a cut about a place, moved into the picture."""
    at = np.round(np.array([place.row, place.column]) - np.array(cut) / 2).astype(int)
    top, left = np.clip(at, 0, np.array(shape[:2]) - np.array(cut))
    return int(top), int(left)


def _points(places: Sequence[Scored], corner: tuple[int, int], cut: tuple[int, int]) -> int:
    """Of all places that are well inside."""
    at = np.array([(place.row, place.column) for place in places]) - np.array(corner)
    inside = ((at >= BORDER * np.array(cut)) & (at < (1 - BORDER) * np.array(cut))).all(axis=1)
    return int(np.array([place.points for place in places])[inside].sum())
