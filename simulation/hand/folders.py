"""A site of phantom radiographs, laid out as a hospital has it: tables, settings, pictures, and what is true of them.

``truth.csv`` and ``sites.csv`` (the grade of each of a hand's 31 sites) are for evaluation; no client opens them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.sections.cohort import HandSettings
from common.text import csv_text
from simulation.hand.grid import Layout
from simulation.hand.machines import Machine
from simulation.hand.radiographs import Radiograph, draw_radiograph
from simulation.hand.readers import draw_readers, read
from simulation.hand.sites import EROSION_SITES, NARROWING_SITES, Scores, severity_class
from simulation.phantom.folders import BUDGET, MINIMUM_COHORT, NO_BUDGET, SITE_TOML
from simulation.phantom.random import stream
from simulation.phantom.shifts import SiteShift

IMAGE, NUMBER = "hands", "svdh"
"""Names of the image, and of the total score that readers give."""
MANIFEST = ("exam_id", "patient_id", "visit", "device", f"{IMAGE}_path", "split")
GRADES = ("exam_id", "reader", "session", NUMBER)
TRUTH = ("exam_id", NUMBER, "class", "left", "right")
SITES = ("exam_id", "side", "kind", "site", "grade")
SIDES = ("left", "right")
Rows = list[tuple[str | int | float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One patient to be drawn and written: one radiograph; small enough to be sent to another process."""

    seed: int
    settings: HandSettings
    site: str
    trains: bool
    index: int
    machine: Machine
    folder: Path
    shift: SiteShift

    @property
    def patient_id(self) -> str:
        """In the tables."""
        return f"{self.site}-p{self.index:03d}"

    @property
    def exam_id(self) -> str:
        """In the tables, and the picture's name."""
        return f"{self.patient_id}-e00"

    @property
    def picture_path(self) -> Path:
        """Where the picture lies."""
        return self.folder / "images" / f"{self.exam_id}.png"

    @property
    def layout(self) -> Layout:
        """Sizes of the picture."""
        return Layout(width_px=self.settings.width_px)

    def radiograph(self) -> Radiograph:
        """What the picture is drawn from; the same whenever it is asked for."""
        return draw_radiograph(self.seed, self.site, self.index, shift=self.shift.severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Rows of a patient for each of the site's tables."""

    manifest: Rows
    grades: Rows
    truth: Rows
    sites: Rows


def write_patient(job: Job) -> Tables:
    """Draw one patient, write the picture, and return the rows of the tables."""
    drawn = job.radiograph()
    picture = Image.fromarray(drawn.picture(job.machine, job.layout))
    picture.save(job.picture_path, compress_level=1)
    split = "train" if job.trains and job.index not in _held_out(job) else "test"
    taken, file = drawn.labels.taken.isoformat(), f"images/{job.exam_id}.png"
    scores, total = drawn.scores, drawn.scores.total
    return Tables(
        manifest=[(job.exam_id, job.patient_id, taken, job.machine.name, file, split)],
        grades=_grades(job, total),
        truth=[(job.exam_id, total, severity_class(total), *map(int, scores.by_hand))],
        sites=_sites(job.exam_id, scores),
    )


def write_site(
    folder: Path, name: str, parts: Sequence[Tables], *, maximum_epsilon: float | None = None
) -> None:
    """Write the settings and the tables of a site whose pictures are there.

    Args:
        folder: of the site.
        name: of the site.
        parts: rows of its patients, in order.
        maximum_epsilon: privacy budget of a patient; ``None``: there is none.
    """
    budget = NO_BUDGET if maximum_epsilon is None else BUDGET.format(epsilon=float(maximum_epsilon))
    text = SITE_TOML.format(name=name, minimum_cohort=MINIMUM_COHORT, budget=budget)
    (folder / "site.toml").write_text(text, encoding="utf-8")
    _write(folder / "manifest.csv", MANIFEST, (row for part in parts for row in part.manifest))
    _write(folder / "grades.csv", GRADES, (row for part in parts for row in part.grades))
    _write(folder / "truth.csv", TRUTH, (row for part in parts for row in part.truth))
    _write(folder / "sites.csv", SITES, (row for part in parts for row in part.sites))


def _held_out(job: Job) -> set[int]:
    """Patients of the site who are tested on: the same set whichever patient asks."""
    patients = job.shift.patients
    order = stream(job.seed, job.site, "hands split").permutation(patients)
    return {int(patient) for patient in order[: round(job.settings.held_out * patients)]}


def _grades(job: Job, total: int) -> Rows:
    """What the site's two readers give."""
    readers = draw_readers(stream(job.seed, job.site, "hand readers"), prefix=f"{job.site}-r")
    given = read(stream(job.seed, job.site, "hand readings", job.index), readers, np.array([total], np.int64))
    return [(job.exam_id, reader.name, 1, int(one)) for reader, one in zip(readers, given[:, 0], strict=True)]


def _sites(exam_id: str, scores: Scores) -> Rows:
    kinds = (("erosion", EROSION_SITES, scores.erosion), ("narrowing", NARROWING_SITES, scores.narrowing))
    return [
        (exam_id, side, kind, site, int(grade))
        for number, side in enumerate(SIDES)
        for kind, names, grades in kinds
        for site, grade in zip(names, grades[number], strict=True)
    ]


def _write(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str | int | float, ...]]) -> None:
    path.write_text(csv_text.table(columns, list(rows)), encoding="utf-8", newline="")
