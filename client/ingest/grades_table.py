"""A hospital's table of grades in the form of ``grades.csv``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from client.ingest.facts import translated
from client.ingest.file_rows import Row, spellings
from client.ingest.mapping import GradesSection
from client.ingest.mapping import Mapping as Meaning
from client.ingest.pairing import Paired
from client.ingest.pseudonyms import Pseudonyms
from client.ingest.rows import Table
from client.ingest.spreadsheets import read_table
from common.errors import DataError

ONE_READER = "r1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """One row of ``grades.csv``: an exam, a reader's pseudonym, a session, and grades (empty: a gap)."""

    exam_id: str
    reader: str
    session: str
    grades: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grades:
    """What a hospital's table gave.

    Attributes:
        measurements: names of the graded columns.
        rows: of ``grades.csv``.
        problems: line of the hospital's table -> why it, or a cell of it, was left out.
    """

    measurements: tuple[str, ...]
    rows: tuple[Graded, ...]
    problems: Mapping[int, str]


def read_grades(
    meaning: Meaning,
    section: GradesSection,
    *,
    exams: Mapping[str, Paired],
    files: Mapping[int, str],
    pseudonyms: Pseudonyms,
) -> Grades:
    """Read a table of grades and find the exam of each row.

    Args:
        meaning: the hospital's mapping, for its words.
        section: ``[grades]`` of it.
        exams: exam_id -> exam.
        files: number of a source -> path of its file.
        pseudonyms: of patients and readers.

    Raises:
        DataError: if the table cannot be read or lacks a column.
    """
    table = _table(section)
    index = _Index(tuple(section.exam), exams, files)
    rows: list[Graded] = []
    problems: dict[int, str] = {}
    for line, row in table.rows:
        try:
            exam_id = index.find(_key(meaning, section, row, pseudonyms))
        except DataError as error:
            problems[line] = str(error)
            continue
        for reader, cells in _readers(section, row):
            grades = []
            for name, cell in zip(section.measurements, cells, strict=True):
                try:
                    grades.append(grade(cell, section.grades))
                except DataError as error:
                    problems[line] = f"{name}: {error}"
                    grades.append("")
            if any(grades):
                rows.append(
                    Graded(
                        exam_id=exam_id,
                        reader=_name(meaning, reader, pseudonyms),
                        session=_session(row.get(section.session, "")),
                        grades=tuple(grades),
                    )
                )
    return Grades(measurements=section.measurements, rows=tuple(rows), problems=problems)


def grade(text: str, grades: int) -> str:
    """A whole number below ``grades``, from ``2``, ``2.0``, ``2,0``, ``Grad 2``, ``2°``; empty stays empty.

    Raises:
        DataError: for anything else.
    """
    if text.strip() in ("", "-", "/", "."):
        return ""
    found = re.fullmatch(r"(?:grade?\s*)?([0-9]{1,2})(?:[.,]0*)?\s*°?", text.strip(), re.IGNORECASE)
    if not found or int(found[1]) >= grades:
        raise DataError(f"expected a whole number from 0 to {grades - 1}, or nothing")
    return str(int(found[1]))


class _Index:
    """Finds an exam by its facts, or by the file of either picture."""

    def __init__(self, columns: Sequence[str], exams: Mapping[str, Paired], files: Mapping[int, str]) -> None:
        self._exams: dict[tuple[str, ...], set[str]] = {}
        for exam_id, exam in exams.items():
            keys: list[tuple[str, ...]] = [()]
            for column in columns:
                keys = [(*key, value) for key in keys for value in _values(column, exam, files)]
            for key in keys:
                self._exams.setdefault(key, set()).add(exam_id)

    def find(self, key: tuple[str, ...]) -> str:
        found = self._exams.get(key, set())
        if len(found) != 1:
            raise DataError("no imported exam fits it" if not found else f"{len(found)} exams fit it")
        return next(iter(found))


def _values(column: str, exam: Paired, files: Mapping[int, str]) -> set[str]:
    if column == "file":
        return {s for each in exam.images.values() for s in spellings(files[each.source])}
    if column == "patient_id":
        return {exam.patient}
    return {exam.fact(column)}  # type: ignore[arg-type]  # GradesSection.exam has facts alone


def _table(section: GradesSection) -> Table:
    columns = [*section.exam.values(), *section.columns.values()]
    columns += [column for reader in section.readers for column in reader.columns.values()]
    columns += [column for column in (section.reader, section.session) if column]
    return read_table(section.path, needed=list(dict.fromkeys(columns)), sheet=section.sheet)


def _key(meaning: Meaning, section: GradesSection, row: Row, pseudonyms: Pseudonyms) -> tuple[str, ...]:
    key = []
    for fact, column in section.exam.items():
        text = row[column]
        if fact == "file":
            key.append(text.replace("\\", "/").casefold())
        elif fact == "patient_id":
            key.append(pseudonyms.patient(text))
        else:
            key.append(translated(meaning, fact, text) if text else "")
    return tuple(key)


def _readers(section: GradesSection, row: Row) -> Iterator[tuple[str, list[str]]]:
    """Each reader of a row and the cells, in the order of the measurements."""
    if section.readers:
        for reader in section.readers:
            yield reader.name, [row[reader.columns[name]] for name in section.measurements]
    else:
        yield row[section.reader] if section.reader else "", [row[c] for c in section.columns.values()]


def _name(meaning: Meaning, reader: str, pseudonyms: Pseudonyms) -> str:
    """As the mapping's ``[values.reader]`` has it, else a pseudonym: readers' names stay at home too."""
    if not reader:
        return ONE_READER
    known = {name.casefold(): ours for name, ours in meaning.values.get("reader", {}).items()}
    return known.get(reader.casefold()) or pseudonyms.reader(reader)


def _session(text: str) -> str:
    return text if re.fullmatch(r"[0-9]{1,2}", text) else "1"
