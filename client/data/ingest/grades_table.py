"""A hospital's table of grades in the form of ``grades.csv``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from client.data.ingest.facts import translated
from client.data.ingest.mapping import GradesSection
from client.data.ingest.mapping import Mapping as Meaning
from client.data.ingest.pairing import Paired
from client.data.ingest.pseudonyms import Pseudonyms
from client.data.tables.file_rows import Row, spellings
from client.data.tables.rows import Table, grade, read_table
from client.ledger.identifiers import NUMBER, respelled
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
    advice = _respelled(section, table, exams)
    rows: dict[tuple[str, str, str], Graded] = {}
    problems: dict[int, list[str]] = {}
    faults = {(fault.line, fault.column): fault.what for fault in table.faults}
    for fault in table.faults:
        problems.setdefault(fault.line, []).append(str(fault))
    for line, row in table.rows:
        said = problems.setdefault(line, [])
        try:
            exam_id = index.find(_key(meaning, section, row, pseudonyms), advice.get(line, ""))
        except DataError as error:
            said.append(str(error))
            continue
        for reader, cells in _readers(section, row):
            graded = Graded(
                exam_id=exam_id,
                reader=_name(meaning, reader, pseudonyms),
                session=_session(row.get(section.session, "")),
                grades=tuple(_grades(section, cells, row, faults, line, said)),
            )
            if not any(graded.grades):
                continue
            key = (exam_id, graded.reader, graded.session)
            earlier = rows.setdefault(key, graded)
            if earlier is not graded:
                said += _again(earlier, graded)
                both = tuple(one or other for one, other in zip(earlier.grades, graded.grades, strict=True))
                rows[key] = replace(earlier, grades=both)
    return Grades(
        measurements=section.measurements,
        rows=tuple(rows.values()),
        problems={line: "; ".join(dict.fromkeys(said)) for line, said in problems.items() if said},
    )


def _again(earlier: Graded, graded: Graded) -> Iterator[str]:
    """What is to be said of a second row of one exam, reader and session; one that fills gaps is welcome."""
    if earlier.grades == graded.grades:
        yield "says what an earlier row says"
    elif any(a and b and a != b for a, b in zip(earlier.grades, graded.grades, strict=True)):
        yield "grades otherwise than an earlier row of the same exam and reader, which counts"


def _grades(
    section: GradesSection,
    columns: Sequence[str],
    row: Row,
    faults: Mapping[tuple[int, str], str],
    line: int,
    said: list[str],
) -> Iterator[str]:
    """One reader's grades of a row, empty where there is none; why not goes to ``said``."""
    for name, column in zip(section.measurements, columns, strict=True):
        if (line, column) in faults:  # which is said already
            yield ""
            continue
        try:
            yield grade(row[column], section.grades)
        except DataError as error:
            said.append(f"{name}: {error}")
            yield ""


def _respelled(section: GradesSection, table: Table, exams: Mapping[str, Paired]) -> Mapping[int, str]:
    """Line -> what probably became of its patient's id, where no exam has it."""
    column = section.exam.get("patient_id")
    if column is None:
        return {}
    known = {each.facts["patient_id"] for exam in exams.values() for each in exam.images.values()}
    found = respelled((row[column] for _, row in table.rows), known)
    numbers = [number[1] for name in {*known, *found} if (number := NUMBER.fullmatch(name))]
    digits = max(map(len, numbers), default=0)
    return {
        line: (
            f"its patient id has lost zeros in front, as spreadsheets drop them, or has more: set "
            f"patient_id_digits = {digits} in the mapping"
            if NUMBER.fullmatch(row[column])
            else "its patient id differs from one of the export in zeros, case or separators"
        )
        for line, row in table.rows
        if row[column] in found
    }


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

    def find(self, key: tuple[str, ...], advice: str) -> str:
        found = self._exams.get(key, set())
        if len(found) > 1:
            raise DataError(f"{len(found)} exams fit it")
        if not found:
            raise DataError(f"no imported exam fits it{': ' if advice else ''}{advice}")
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
    return read_table(
        section.path, list(dict.fromkeys(columns)), sheet=section.sheet, header_row=section.header_row
    )


def _key(meaning: Meaning, section: GradesSection, row: Row, pseudonyms: Pseudonyms) -> tuple[str, ...]:
    key = []
    for fact, column in section.exam.items():
        text = row[column]
        if not text and fact in ("file", "patient_id"):
            raise DataError(f"{column} is empty: write it in every row")
        if fact == "file":
            key.append(text.replace("\\", "/").casefold())
        elif fact == "patient_id":
            key.append(pseudonyms.patient(text))
        else:
            key.append(translated(meaning, fact, text) if text else "")
    return tuple(key)


def _readers(section: GradesSection, row: Row) -> Iterator[tuple[str, list[str]]]:
    """Each reader of a row and the columns of the grades, in the order of the measurements."""
    if section.readers:
        for reader in section.readers:
            yield reader.name, [reader.columns[name] for name in section.measurements]
    else:
        yield row[section.reader] if section.reader else "", list(section.columns.values())


def _name(meaning: Meaning, reader: str, pseudonyms: Pseudonyms) -> str:
    """As the mapping's ``[values.reader]`` has it, else a pseudonym: readers' names stay at home too."""
    if not reader:
        return ONE_READER
    known = {name.casefold(): ours for name, ours in meaning.values.get("reader", {}).items()}
    return known.get(reader.casefold()) or pseudonyms.reader(reader)


def _session(text: str) -> str:
    return text if re.fullmatch(r"[0-9]{1,2}", text) else "1"
