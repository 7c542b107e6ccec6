"""Reads a site's two tables: exams with one grade per measurement, and those that are left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from client.data.tables import reading_room
from client.data.tables.manifest import read_manifest
from client.data.tables.reading_room import Room
from client.data.tables.rows import Row, grade, number, read_rows, refuse
from client.ledger.identifiers import respelled
from common.errors import DataError
from common.exam import MISSING, Exam, Quarantined, consensus, mean, repair
from common.scoring import validity
from common.settings import Settings

Value = TypeVar("Value", int, float)

DISCUSSION, ADJUDICATION = "discussion", "adjudication"
SETTLED = (ADJUDICATION, DISCUSSION)
"""Sessions in which readers who differ come to one answer, the one that goes first at the front: a further reader
decides; readers discuss."""
ADJUDICATED = "adjudicated"
"""The rule of consensus that takes it (Zhou et al. 2022: three alone, then discussion, then a fourth decides)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reader's grades and numbers of one exam in one session; ``None`` is a gap."""

    line: int
    exam_id: str
    reader: str
    grades: Mapping[str, int | None]
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    session: str = ""

    @property
    def settles(self) -> bool:
        """Whether it is what readers settled on, of :data:`SETTLED`, and no reader's own opinion."""
        return self.session.casefold() in SETTLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """A site's exams, and those that are left out.

    Attributes:
        exams: with targets, in the order of the manifest.
        readings: every row of the grades.
        quarantined: exams whose grades cannot be used.
        notes: what deserves a look and stops nothing, for ``check``.
        ungraded: of the quarantined, those that nobody graded.
    """

    exams: tuple[Exam, ...]
    readings: tuple[Reading, ...]
    quarantined: tuple[Quarantined, ...]
    notes: tuple[str, ...]
    ungraded: tuple[Exam, ...] = ()


def read_tables(
    folder: Path,
    *,
    manifest: str,
    grades: str,
    rule: str,
    settings: Settings,
    room: Room = reading_room.NOTHING,
) -> Tables:
    """Read a site's tables.

    An exam is quarantined if the manifest or a reader excludes it, if any reader gave an impossible pair or a grade
    that does not exist, if readers differ and their rule settles nothing, or if no reader gave any grade; these
    :func:`client.data.tables.ungraded.with_ungraded` may take in again. One that lacks some measurement stays, for
    the others: the consensus of a measurement is over the readers who graded it, each by the first row that has a
    grade.

    Args:
        folder: the folder that paths start from.
        manifest: file name of the manifest.
        grades: file name of the readers' grades.
        rule: how several readers' grades become one: see :func:`common.exam.consensus`; or ``adjudicated``: what was
            settled in a session of :data:`SETTLED`, else what all readers alike say.
        settings: which images and measurements are needed.
        room: what readers did in the reading room.

    Raises:
        DataError: for a missing file or column, and for rows of the manifest that cannot be used, all listed.
    """
    exams, unknown = read_manifest(folder, folder / manifest, settings)
    exams = [_redrawn(exam, room) for exam in exams]
    readings, suspect = _read_grades(folder / grades, settings, room)
    _check_reader(rule, readings, folder / grades)
    by_exam: dict[str, list[Reading]] = {}
    for reading in readings:
        by_exam.setdefault(reading.exam_id, []).append(reading)
    kept: list[Exam] = []
    ungraded: list[Exam] = []
    quarantined: list[Quarantined] = []
    for exam in exams:
        mine = by_exam.get(exam.exam_id, [])
        excluded = f"excluded in the manifest: {exam.excluded}" if exam.excluded else None
        reason = excluded or room.excluded.get(exam.exam_id)
        reason = reason or suspect.get(exam.exam_id) or _impossible(mine, settings)
        read = _read(exam, mine, rule, settings)
        if reason is None and not read.graded and any(g is not None for r in mine for g in r.grades.values()):
            reason = f"no agreement of its readers, and no session {' or '.join(SETTLED)}"
        if reason is None and not read.graded:
            reason = "no reader gave a grade"
            ungraded.append(read)
        if reason is None:
            kept.append(read)
        else:
            quarantined.append(Quarantined(exam_id=exam.exam_id, line=exam.line, reason=reason))
    names = {exam.exam_id for exam in exams}
    strays = set(by_exam) - names
    return Tables(
        exams=tuple(kept),
        readings=tuple(readings),
        quarantined=tuple(quarantined),
        notes=tuple(_notes(unknown, len(strays), len(respelled(strays, names)))),
        ungraded=tuple(ungraded),
    )


def _redrawn(exam: Exam, room: Room) -> Exam:
    """With the regions that were drawn in the reading room."""
    drawn = {name: roi for name in exam.images if (roi := room.regions.get((exam.exam_id, name)))}
    if not drawn:
        return exam
    images = {
        name: replace(ref, roi=drawn[name]) if name in drawn else ref for name, ref in exam.images.items()
    }
    return replace(exam, images=images)


def _notes(unknown: Sequence[str], strays: int, respelt: int) -> list[str]:
    notes = [f"columns of the manifest that are not used: {', '.join(unknown)}"] if unknown else []
    why = (
        f"; {respelt} of them would be, but for zeros, case or separators: spreadsheets drop zeros in front of "
        f"numbers, format the column as text"
    )
    return notes + (
        [f"{strays} graded exams are not in the manifest{why if respelt else ''}"] if strays else []
    )


def _read(exam: Exam, readings: Sequence[Reading], rule: str, settings: Settings) -> Exam:
    """With what its readers say of it, and what follows from that and from its row."""
    numbers = {
        name: mean(_given([(reading, reading.numbers.get(name)) for reading in readings], rule), rule)
        for name in settings.numbers
    }
    targets: dict[str, int | None] = {}
    for name, measurement in settings.measurements.items():
        if measurement.column:
            targets[name] = measurement.class_of(exam.diagnosis)
        elif measurement.number:
            value = numbers[measurement.number]
            targets[name] = None if value is None else measurement.grade_of(value)
        else:
            given = _given([(reading, reading.grades[name]) for reading in readings], rule)
            targets[name] = _alike(given) if rule == ADJUDICATED else consensus(given, rule)
    counts = {name: measurement.grades for name, measurement in settings.measurements.items()}
    repaired = repair(targets, grades=counts, is_valid=validity.predicate(settings))
    return replace(exam, targets=repaired, numbers=numbers)


def _given(values: Sequence[tuple[Reading, Value | None]], rule: str) -> list[tuple[str, Value]]:
    """Each reader's first value, gaps left out; where it is adjudicated of the first session that has any."""
    parts = [values]
    if rule == ADJUDICATED:
        parts = [[one for one in values if one[0].session.casefold() == session] for session in SETTLED]
        parts.append([one for one in values if not one[0].settles])
    for part in parts:
        found: dict[str, Value] = {}
        for reading, given in part:
            if given is not None:
                found.setdefault(reading.reader, given)
        if found:
            return list(found.items())
    return []


def _alike(given: Sequence[tuple[str, int]]) -> int | None:
    """What all say; ``None`` where they differ."""
    grades = {grade for _, grade in given}
    return grades.pop() if len(grades) == 1 else None


def _impossible(readings: Sequence[Reading], settings: Settings) -> str | None:
    object_to = validity.objection(settings)
    for reading in readings:
        if why := object_to(reading.grades):
            given = {name: grade for name, grade in reading.grades.items() if grade is not None}
            together = " with ".join(f"{name} {grade}" for name, grade in given.items())
            return f"grades line {reading.line}: {together} cannot be: {why}"
    return None


def _read_grades(path: Path, settings: Settings, room: Room) -> tuple[list[Reading], dict[str, str]]:
    """All readings, the table's first, and exam -> reason for those with a grade that is none."""
    if room.grades and not path.exists():
        return _readings((), room, settings)
    table = read_rows(path, ["exam_id", "reader", *settings.read_by_readers])
    refuse(
        path,
        (
            f"  line {line}: {column} is empty, expected an identifier"
            for line, row in table.rows
            for column in ("exam_id", "reader")
            if not row[column]
        ),
    )
    return _readings(table.rows, room, settings)


def _readings(
    rows: Sequence[tuple[int, Row]], room: Room, settings: Settings
) -> tuple[list[Reading], dict[str, str]]:
    readings: list[Reading] = []
    suspect: dict[str, str] = {}
    sessions = [row.get("session", "") for _, row in rows] + [reading_room.SESSION] * len(room.grades)
    for (line, row), session in zip((*rows, *room.grades), sessions, strict=True):
        grades: dict[str, int | None] = {}
        numbers: dict[str, float | None] = {}
        try:
            for name, of_range in settings.numbers.items():
                numbers[name] = number(row.get(name, ""), of_range)
        except DataError as error:
            suspect.setdefault(row["exam_id"], f"grades line {line}: {name} is {row[name]!r}, {error}")
        for name, measurement in settings.measurements.items():
            if measurement.number:
                value = numbers.get(measurement.number)
                grades[name] = None if value is None else measurement.grade_of(value)
            if not measurement.by_readers:
                continue
            try:
                cell = grade(row.get(name, ""), measurement.grades)
            except DataError:
                problem = f"{name} is {row[name]!r}, expected 0 to {measurement.grades - 1} or nothing"
                suspect.setdefault(row["exam_id"], f"grades line {line}: {problem}")
                cell = ""
            grades[name] = int(cell) if cell else None
        readings.append(
            Reading(
                line=line,
                exam_id=row["exam_id"],
                reader=row["reader"],
                grades=grades,
                numbers=numbers,
                session=session,
            )
        )
    return readings, {**_contradictions(readings), **suspect}


def _contradictions(readings: Sequence[Reading]) -> dict[str, str]:
    """Exam -> reason for those that a reader graded twice in one session, and otherwise."""
    found: dict[str, str] = {}
    first: dict[tuple[str, ...], tuple[int, float]] = {}
    for reading in readings:
        for name, given in (*reading.grades.items(), *reading.numbers.items()):
            if given is None:
                continue
            key = (reading.exam_id, reading.reader, reading.session, name)
            line, earlier = first.setdefault(key, (reading.line, given))
            if earlier != given:
                why = f"{name} is {given:g}, but {earlier:g} in line {line} by the same reader"
                found.setdefault(reading.exam_id, f"grades line {reading.line}: {why}")
    return found


def _check_reader(rule: str, readings: Sequence[Reading], path: Path) -> None:
    readers = sorted({reading.reader for reading in readings})
    wanted = rule.removeprefix("reader:")
    if rule.startswith("reader:") and wanted not in readers:
        raise DataError(f"Expected reader {wanted!r} of site.toml in {path}, got {', '.join(readers)}")


def grades_of(exams: Sequence[Exam], settings: Settings) -> dict[str, list[int]]:
    """Measurement -> the grade of each exam, ``MISSING`` where it has none."""
    return {
        name: [MISSING if (grade := exam.targets.get(name)) is None else grade for exam in exams]
        for name in settings.measurements
    }


def shares_of(exams: Sequence[Exam], settings: Settings) -> dict[str, list[float]]:
    """Number -> where it lies in its range for each exam, NaN where it is not known."""
    return {
        name: [math.nan if (v := exam.numbers.get(name)) is None else of_range.share(v) for exam in exams]
        for name, of_range in settings.numbers.items()
    }
