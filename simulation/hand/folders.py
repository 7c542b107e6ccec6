"""A folder of phantom radiographs with their tables: manifest, readers' totals, and what is true of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import DataError
from common.text import csv_text
from simulation.hand.grid import Layout
from simulation.hand.machines import Machine
from simulation.hand.radiographs import Radiograph, draw_radiograph
from simulation.hand.readers import draw_readers, read
from simulation.hand.sites import EROSION_SITES, NARROWING_SITES, severity_class
from simulation.phantom.random import stream

MANIFEST = ("exam_id", "patient_id", "visit", "device", "radiograph_path")
TOTALS = ("exam_id", "reader", "session", "total")
TRUTH = ("exam_id", "total", "class", "left", "right")
SITES = ("exam_id", "side", "kind", "site", "grade")
SIDES = ("left", "right")
Rows = list[tuple[str | int | float, ...]]


def write_folder(
    folder: Path,
    *,
    seed: int,
    site: str,
    machine: Machine,
    patients: int,
    layout: Layout,
    shift: float = 0.0,
) -> None:
    """Write pictures and tables of one site; one radiograph a patient.

    Args:
        folder: to be made; must not exist.
        seed: the same seed and arguments give the same bytes.
        site: name of the site.
        machine: of the site.
        patients: how many.
        layout: sizes of the pictures.
        shift: as of :func:`simulation.hand.radiographs.draw_radiograph`.

    Raises:
        DataError: if ``folder`` exists.
    """
    if folder.exists():
        raise DataError(f"Expected no folder at {folder}: choose another place or remove it")
    (folder / "images").mkdir(parents=True)
    names = [f"{site}-p{index:03d}-e00" for index in range(patients)]
    drawn = [draw_radiograph(seed, site, index, shift=shift) for index in range(patients)]
    for name, radiograph in zip(names, drawn, strict=True):
        picture = Image.fromarray(radiograph.picture(machine, layout))
        picture.save(folder / "images" / f"{name}.png", compress_level=1)
    _write(folder / "manifest.csv", MANIFEST, _manifest(names, drawn, machine))
    _write(folder / "totals.csv", TOTALS, _totals(names, drawn, seed, site))
    _write(folder / "truth.csv", TRUTH, _truth(names, drawn))
    _write(folder / "sites.csv", SITES, _sites(names, drawn))


def _manifest(names: Sequence[str], drawn: Sequence[Radiograph], machine: Machine) -> Rows:
    return [
        (
            name,
            name.removesuffix("-e00"),
            one.labels.taken.isoformat(),
            machine.name,
            f"images/{name}.png",
        )
        for name, one in zip(names, drawn, strict=True)
    ]


def _totals(names: Sequence[str], drawn: Sequence[Radiograph], seed: int, site: str) -> Rows:
    readers = draw_readers(stream(seed, site, "hand readers"), prefix=f"{site}-r")
    totals = np.array([one.scores.total for one in drawn], np.int64)
    given = read(stream(seed, site, "hand readings"), readers, totals)
    return [
        (name, reader.name, 1, int(total))
        for name, column in zip(names, given.T, strict=True)
        for reader, total in zip(readers, column, strict=True)
    ]


def _truth(names: Sequence[str], drawn: Sequence[Radiograph]) -> Rows:
    return [
        (name, one.scores.total, severity_class(one.scores.total), *map(int, one.scores.by_hand))
        for name, one in zip(names, drawn, strict=True)
    ]


def _sites(names: Sequence[str], drawn: Sequence[Radiograph]) -> Rows:
    rows: Rows = []
    for name, one in zip(names, drawn, strict=True):
        scores = one.scores
        for side, erosion, narrowing in zip(SIDES, scores.erosion, scores.narrowing, strict=True):
            rows += [
                (name, side, "erosion", site, int(g)) for site, g in zip(EROSION_SITES, erosion, strict=True)
            ]
            rows += [
                (name, side, "narrowing", site, int(g))
                for site, g in zip(NARROWING_SITES, narrowing, strict=True)
            ]
    return rows


def _write(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str | int | float, ...]]) -> None:
    path.write_text(csv_text.table(columns, rows), encoding="utf-8", newline="")
