"""Reads ``manifest.csv`` and ``grades.csv``: every error at once, with line, column, value and what is allowed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import DataError
from common.exam import Exam, ImageRef, Quarantined, Roi, consensus, repair
from common.scoring import validity
from common.settings import Settings

SHOWN_ERRORS = 50
PLAIN = ("device", "diagnosis", "joint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reader's grades of one exam; ``None`` is a gap."""

    line: int
    exam_id: str
    reader: str
    grades: Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """A site's exams, and those that are left out."""

    exams: tuple[Exam, ...]
    readings: tuple[Reading, ...]
    quarantined: tuple[Quarantined, ...]


def read_tables(folder: Path, *, manifest: str, grades: str, rule: str, settings: Settings) -> Tables:
    """Read a site's two tables.

    An exam with an impossible pair or a grade out of range, or with no grade at all, is quarantined. One that
    lacks some measurement stays, for the others.

    Args:
        folder: the site's folder.
        manifest: file name of the manifest.
        grades: file name of the readers' grades.
        rule: how several readers' grades become one, see :func:`common.exam.consensus`.
        settings: which images and measurements are needed.

    Raises:
        DataError: for a missing file or column, and for rows of the manifest that cannot be used, all listed.
    """
    rows = _read_manifest(folder, folder / manifest, settings)
    readings, suspect = _read_grades(folder / grades, settings)
    by_exam: dict[str, list[Reading]] = {}
    for reading in readings:
        by_exam.setdefault(reading.exam_id, []).append(reading)
    kept: list[Exam] = []
    quarantined: list[Quarantined] = []
    for exam in rows:
        mine = by_exam.get(exam.exam_id, [])
        reason = suspect.get(exam.exam_id) or _impossible(mine, settings)
        targets = _targets(mine, rule, settings)
        if reason is None and all(grade is None for grade in targets.values()):
            reason = "no reader gave a grade"
        if reason is None:
            kept.append(_with_targets(exam, targets))
        else:
            quarantined.append(Quarantined(exam_id=exam.exam_id, line=exam.line, reason=reason))
    return Tables(exams=tuple(kept), readings=tuple(readings), quarantined=tuple(quarantined))


def _with_targets(exam: Exam, targets: Mapping[str, int | None]) -> Exam:
    return Exam(
        line=exam.line,
        exam_id=exam.exam_id,
        patient_id=exam.patient_id,
        images=exam.images,
        device=exam.device,
        diagnosis=exam.diagnosis,
        joint=exam.joint,
        split=exam.split,
        fold=exam.fold,
        targets=targets,
    )


def _targets(readings: Sequence[Reading], rule: str, settings: Settings) -> dict[str, int | None]:
    targets = {
        name: consensus(
            [(r.reader, grade) for r in readings if (grade := r.grades[name]) is not None], rule
        )
        for name in settings.measurements
    }
    counts = {name: measurement.grades for name, measurement in settings.measurements.items()}
    return repair(targets, grades=counts, is_valid=validity.predicate(settings))


def _impossible(readings: Sequence[Reading], settings: Settings) -> str | None:
    is_valid = validity.predicate(settings)
    for reading in readings:
        grades = [reading.grades[name] for name in settings.measurements]
        known = tuple(grade for grade in grades if grade is not None)
        if len(known) == len(grades) and not is_valid(known):
            pair = ", ".join(f"{name} {grade}" for name, grade in reading.grades.items())
            return f"grades line {reading.line}: {pair} cannot be"
    return None


def _read_manifest(folder: Path, path: Path, settings: Settings) -> list[Exam]:
    needed = ["exam_id", "patient_id", *(f"{image}_path" for image in settings.images)]
    errors: list[str] = []
    exams: list[Exam] = []
    for line, row in _rows(path, needed):
        problems = list(_row_problems(folder, row, settings))
        errors += [f"  line {line}: {problem}" for problem in problems]
        if not problems:
            exams.append(_exam(line, row, settings))
    errors += _contradictions(exams)
    if errors:
        more = f"\n  ... and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise DataError(
            f"{path} has {len(errors)} errors; nothing was imported:\n" + "\n".join(errors[:SHOWN_ERRORS]) + more
        )
    if not exams:
        raise DataError(f"Expected at least one exam in {path}, got none")
    return exams


def _row_problems(folder: Path, row: Mapping[str, str], settings: Settings) -> Iterator[str]:
    for column in ("exam_id", "patient_id"):
        if not row[column]:
            yield f"{column} is empty, expected an identifier"
    if row.get("split", "") not in ("", "train", "test"):
        yield f"split is {row['split']!r}, expected train, test or nothing"
    fold = row.get("fold", "")
    if fold and not (fold.isdecimal() and int(fold) < settings.rating.folds):
        yield f"fold is {fold!r}, expected 0 to {settings.rating.folds - 1} or nothing"
    for image in settings.images:
        yield from _image_problems(folder, image, row)


def _image_problems(folder: Path, image: str, row: Mapping[str, str]) -> Iterator[str]:
    text = row[f"{image}_path"]
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts:
        yield f"{image}_path is {text!r}, expected a path inside the site's folder"
    elif not (folder / path).is_file():
        yield f"{image}_path is {text!r}, expected a file, there is none"
    elif not (folder / path).resolve().is_relative_to(folder.resolve()):
        yield f"{image}_path is {text!r}, which leads out of the site's folder"
    roi = row.get(f"{image}_roi", "")
    try:
        if roi:
            Roi.parse(roi)
    except ValueError:
        yield f"{image}_roi is {roi!r}, expected 'x y width height' in pixels"


def _exam(line: int, row: Mapping[str, str], settings: Settings) -> Exam:
    images = {
        image: ImageRef(
            path=row[f"{image}_path"], roi=Roi.parse(roi) if (roi := row.get(f"{image}_roi", "")) else None
        )
        for image in settings.images
    }
    fold = row.get("fold", "")
    return Exam(
        line=line,
        exam_id=row["exam_id"],
        patient_id=row["patient_id"],
        images=images,
        device=row.get("device") or "unknown",
        diagnosis=row.get("diagnosis", ""),
        joint=row.get("joint", ""),
        split=row.get("split", ""),
        fold=int(fold) if fold else None,
        targets={},
    )


def _contradictions(exams: Sequence[Exam]) -> Iterator[str]:
    first: dict[str, int] = {}
    sides: dict[str, tuple[str, int]] = {}
    for exam in exams:
        if exam.exam_id in first:
            yield f"  line {exam.line}: exam_id {exam.exam_id!r} stands in line {first[exam.exam_id]} already"
        first.setdefault(exam.exam_id, exam.line)
        split, line = sides.setdefault(exam.patient_id, (exam.split, exam.line))
        if split != exam.split:
            yield (
                f"  line {exam.line}: split is {exam.split!r}, but {split!r} in line {line} for the same "
                f"patient_id: a patient is in one split"
            )


def _read_grades(path: Path, settings: Settings) -> tuple[list[Reading], dict[str, str]]:
    """All readings, and exam -> reason for those with a grade that is none."""
    readings: list[Reading] = []
    suspect: dict[str, str] = {}
    for line, row in _rows(path, ["exam_id", "reader", *settings.measurements]):
        grades: dict[str, int | None] = {}
        for name, measurement in settings.measurements.items():
            text = row[name]
            allowed = text.isdecimal() and int(text) < measurement.grades
            grades[name] = int(text) if allowed else None
            if text and not allowed:
                suspect[row["exam_id"]] = (
                    f"grades line {line}: {name} is {text!r}, expected 0 to {measurement.grades - 1} or nothing"
                )
        readings.append(Reading(line=line, exam_id=row["exam_id"], reader=row["reader"], grades=grades))
    return readings, suspect


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row of a table with certain columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in needed if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"Expected columns {', '.join(needed)} in {path}; missing: {', '.join(missing)}")
            for row in reader:
                cells = {key: (value or "").strip() for key, value in row.items() if key is not None}
                yield reader.line_num, cells
    except OSError as error:
        raise DataError(f"Expected a table at {path}: {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}") from None
