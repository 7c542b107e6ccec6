"""A site's exams as readers see them, and what they are graded by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from client.data import withdrawn
from client.data.tables.manifest import image_problems
from client.data.tables.rows import Row, read_rows
from client.site.site import Site
from client.state import decisions
from common.errors import SynofedError
from common.exam import ImageRef, Roi
from common.scoring import eoss, validity
from common.settings import Settings

PATH, ROI, SPACING = "_path", "_roi", "_mm_per_px"
"""Ends of the names of an image's columns in the manifest."""
DESCRIBED = ("visit", "side", "joint", "digit", "view", "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One exam of the worklist.

    Attributes:
        token: what pages call it.
        patient_id: the pseudonym.
        about: visit, side, joint, digit, view, device, as far as the manifest says.
        images: image -> its file and the manifest's region.
        spacing_mm: image -> millimetres per pixel, where the manifest says so.
        problem: why it cannot be opened; empty if it can.
    """

    token: str
    exam_id: str
    patient_id: str
    about: Mapping[str, str]
    images: Mapping[str, ImageRef]
    spacing_mm: Mapping[str, float]
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What an exam is graded by.

    Attributes:
        measurements: name -> number of grades.
        combinations: of grades, in the order of the measurements, that can be.
    """

    measurements: Mapping[str, int]
    combinations: tuple[tuple[int, ...], ...]

    def can_be(self, grades: Mapping[str, int | None]) -> bool:
        """Whether grades, of which some may be missing, are part of a combination that can be."""
        given = [grades.get(name) for name in self.measurements]
        return any(
            all(mine in (None, theirs) for mine, theirs in zip(given, combination, strict=True))
            for combination in self.combinations
        )


EULAR_OMERACT = Scheme(
    measurements={"hypertrophy": eoss.GRADES, "vascularity": eoss.GRADES},
    combinations=tuple(pair for pair in product(range(eoss.GRADES), repeat=2) if eoss.is_valid_pair(pair)),
)


def scheme_of(settings: Settings) -> Scheme:
    """What a plan's exams are graded by: not what follows from a diagnosis or a number."""
    measurements = {name: one.grades for name, one in settings.measurements.items() if one.by_readers}
    places = [place for place, name in enumerate(settings.measurements) if name in measurements]
    can_be = validity.predicate(settings)
    every = product(*(range(one.grades) for one in settings.measurements.values()))
    given = dict.fromkeys(tuple(grades[i] for i in places) for grades in every if can_be(grades))
    return Scheme(measurements=measurements, combinations=tuple(given))


def scheme(site: Site) -> Scheme:
    """What a site's exams are graded by: the newest campaign's measurements, or EULAR-OMERACT's scores."""
    for plan_hash, state in decisions.listed(site).items():
        try:
            return scheme_of(decisions.plan(site, plan_hash, name=state.names[-1]))
        except SynofedError:
            continue  # of another version: the one before may do
    return EULAR_OMERACT


def exams(site: Site, *, key: bytes) -> tuple[Listed, ...]:
    """The exams of a site's manifest, without those of patients who withdrew.

    Args:
        site: the site.
        key: of the tokens; they tell nothing of an exam to who does not have it.

    Raises:
        DataError: if there is no manifest, or it cannot be read.
        VerificationError: if the list of who withdrew is not as the ledger knows it.
    """
    table = read_rows(site.data_folder / site.file.data.manifest, ["exam_id", "patient_id"])
    names = [column.removesuffix(PATH) for column in table.columns if column.endswith(PATH)]
    gone = withdrawn.among(site.folder, {row["patient_id"] for _, row in table.rows})
    root = site.data_folder.resolve()
    found, seen = [], set[str]()
    for _, row in table.rows:
        if row["patient_id"] in gone:
            continue
        present = [name for name in names if row[f"{name}{PATH}"]]
        problems = [problem for name in present for problem in image_problems(root, name, row)]
        problems += [] if present else ["no picture is named"]
        problems += ["exam_id stands in a line above already"] if row["exam_id"] in seen else []
        seen.add(row["exam_id"])
        found.append(_listed(row, present, "; ".join(problems), key))
    return tuple(found)


def _listed(row: Row, names: list[str], problem: str, key: bytes) -> Listed:
    images = {}
    if not problem:
        for name in names:
            roi = row.get(f"{name}{ROI}", "")
            images[name] = ImageRef(path=row[f"{name}{PATH}"], roi=Roi.parse(roi) if roi else None)
    spacing = {name: _number(row.get(f"{name}{SPACING}", "")) for name in names}
    return Listed(
        token=hashlib.blake2b(row["exam_id"].encode(), key=key, digest_size=12).hexdigest(),
        exam_id=row["exam_id"],
        patient_id=row["patient_id"],
        about={name: row.get(name, "") for name in DESCRIBED},
        images=images,
        spacing_mm={name: value for name, value in spacing.items() if value},
        problem=problem,
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 < value < 10 else 0.0
