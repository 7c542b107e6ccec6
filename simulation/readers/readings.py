"""A reader study's table: one row per reading.

Columns ``exam_id, reader, condition`` (``without`` or ``with`` assistance), the grades, optionally ``patient_id``,
and the reference in columns ``truth_<measurement>``, here or in a table of its own. Grades and reference are either
``combined`` or the pair ``hypertrophy, vascularity``, from which the combined score follows. What an ensemble says of
the exams may stand in ``ensemble_<measurement>``, how long a reading took in ``seconds`` (``hidden_seconds``: while
its page was hidden), and in which ``session`` it was read, if exams were read more than once in a condition.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from client.data.tables.rows import Table, grade, read_rows, refuse
from common.errors import DataError
from common.evaluation.readers import CONDITIONS
from common.exam import MISSING
from common.scoring import eoss

COMBINED = "combined"
PAIR = ("hypertrophy", "vascularity")
SIMULATED = "simulated-"
"""How the names of simulated readers begin, by which they are known in any table."""
SIMULATED_READERS = "simulated readers"
ENSEMBLE = "ensemble"
_ENSEMBLE = f"{ENSEMBLE}_"
TIMES = ("seconds", "hidden_seconds")

Exams: TypeAlias = dict[str, dict[str, str]]
"""What rows say of an exam: ``patient_id``, reference grades and the ensemble's."""
Grades: TypeAlias = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Readings that can be used.

    Attributes:
        table: column -> one value per reading, by session: the texts ``exam_id, patient, reader, condition``; for
            each measurement m the grades ``m``, ``truth_m`` and ``ensemble_m``, ``MISSING`` where not graded; and
            ``TIMES``, nan where not measured.
        measurements: ``combined``, or all three.
        unit: what is drawn and swapped as a whole: the patient, or the exam where patients are not named.
        impossible: pairs of grades that cannot be, and where; they count as not graded.
        unreferenced: exams without any reference grade.
        sessions: how many there are.
    """

    table: Mapping[str, np.ndarray]
    measurements: tuple[str, ...]
    unit: Literal["patient", "exam"]
    impossible: tuple[str, ...]
    unreferenced: tuple[str, ...]
    sessions: int

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that were read."""
        return tuple(c for c in CONDITIONS if (self.table["condition"] == c).any())

    @property
    def kind(self) -> str:
        """Whose readings these are, for titles: ``readers`` or ``simulated readers``."""
        simulated = [name.startswith(SIMULATED) for name in set(self.table["reader"])]
        if all(simulated):
            return SIMULATED_READERS
        return f"readers and {SIMULATED_READERS}" if any(simulated) else "readers"


def read(path: Path, *, truth: Path | None = None) -> Readings:
    """Read a table of readings; with a column ``site``, exams and patients of two sites are two whatever their ids.

    Args:
        path: CSV or XLSX; other columns than those named above are ignored.
        truth: CSV with ``exam_id``, ``truth_<m>`` and optionally ``patient_id``, if they are not in the first.

    Raises:
        DataError: if a column is missing, and for rows that cannot be used, all listed.
    """
    readings = _of_sites(read_rows(path, ["exam_id", "reader", "condition"]))
    sites = ["site"] if "site" in readings.columns else []
    reference = readings if truth is None else _of_sites(read_rows(truth, ["exam_id", *sites]))
    graded = _graded(readings.columns, "", path)
    columns = [*readings.columns, *reference.columns]
    referenced = _graded(columns, "truth_", truth or path)
    answered = _graded(columns, _ENSEMBLE, path) if any(c.startswith(_ENSEMBLE) for c in columns) else ()
    readings, reference = (
        _plain(table, (*graded, *referenced, *answered)) for table in (readings, reference)
    )
    exams: Exams = {}
    if truth is not None:
        refuse(truth, list(_exam_problems(reference, (*referenced, *answered), exams)))
    problems = [
        *_exam_problems(readings, (*referenced, *answered), exams),
        *_reading_problems(readings, graded, exams),
    ]
    refuse(path, problems)
    return _readings(readings, (graded, referenced, answered), exams)


def counted(table: Mapping[str, np.ndarray], use: NDArray[np.bool_], *, time: int = 1) -> NDArray[np.bool_]:
    """Of the rows in ``use``, those in which a reader reads an exam in a condition for the first (second ..) time."""
    seen: Counter[tuple[str, str, str]] = Counter()
    chosen = np.zeros(len(use), dtype=bool)
    for row in np.flatnonzero(use):
        key = (table["reader"][row], table["exam_id"][row], table["condition"][row])
        seen[key] += 1
        chosen[row] = seen[key] == time
    return chosen


def _of_sites(table: Table) -> Table:
    """With ids that say whose they are where the table has a column ``site``: hospitals may use the same ones."""
    if "site" not in table.columns:
        return table
    rows = tuple(
        (
            line,
            row | {name: f"{row['site']}/{row[name]}" for name in ("exam_id", "patient_id") if row.get(name)},
        )
        for line, row in table.rows
    )
    return replace(table, rows=rows)


def _plain(table: Table, columns: Sequence[str]) -> Table:
    """With grades as plain whole numbers, so that ``2.0`` is 2; what is none stays, to be named."""

    def plain(text: str) -> str:
        try:
            return grade(text, eoss.GRADES)
        except DataError:
            return text

    rows = tuple(
        (line, row | {column: plain(row[column]) for column in columns if column in row})
        for line, row in table.rows
    )
    return replace(table, rows=rows)


def _graded(columns: Sequence[str], prefix: str, path: Path) -> tuple[str, ...]:
    """The columns of grades: the combined score's, or those from which it follows."""
    one, pair = f"{prefix}{COMBINED}", tuple(f"{prefix}{name}" for name in PAIR)
    has_pair = set(pair) <= set(columns)
    if has_pair == (one in columns):
        got = "both" if has_pair else ", ".join(columns)
        raise DataError(f"Expected either the column {one} or {' and '.join(pair)} in {path}, got {got}.")
    return pair if has_pair else (one,)


def _exam_problems(table: Table, referenced: Sequence[str], exams: Exams) -> Iterator[str]:
    """Collect what rows say of their exams; yield what contradicts or cannot be read."""
    given = [column for column in ("patient_id", *referenced) if column in table.columns]
    for line, row in table.rows:
        for column in ("exam_id", *(c for c in given if c == "patient_id")):
            if not row[column]:
                yield f"  line {line}: {column} is empty, expected an identifier"
        exam = exams.setdefault(row["exam_id"], {})
        said = [
            c for c in given if row[c] or not c.startswith(_ENSEMBLE)
        ]  # who reads alone may not see the ensemble
        for column in said:
            if exam.setdefault(column, row[column]) != row[column]:
                yield (
                    f"  line {line}: {column} is {row[column]!r}, expected {exam[column]!r}, as another row has it "
                    f"for exam {row['exam_id']}"
                )
        for column in (c for c in given if c in referenced):
            yield from _grade_problems(line, column, row[column])


def _reading_problems(table: Table, graded: Sequence[str], exams: Exams) -> Iterator[str]:
    known = {column for exam in exams.values() for column in exam if not column.startswith(_ENSEMBLE)}
    keys = [c for c in ("exam_id", "reader", "condition", "session") if c in table.columns]
    seen: dict[tuple[str, ...], int] = {}
    for line, row in table.rows:
        if not row["reader"]:
            yield f"  line {line}: reader is empty, expected a name"
        if row["reader"] == ENSEMBLE:
            yield f"  line {line}: reader is {ENSEMBLE!r}, expected a person; its grades are columns {_ENSEMBLE}..."
        if row["condition"] not in CONDITIONS:
            yield f"  line {line}: condition is {row['condition']!r}, expected {' or '.join(CONDITIONS)}"
        for column in graded:
            yield from _grade_problems(line, column, row[column])
        yield from _time_problems(line, row)
        if known - set(exams[row["exam_id"]]):
            yield f"  line {line}: exam_id is {row['exam_id']!r}, expected an exam of the reference's table"
        key = tuple(row[column] for column in keys)
        if seen.setdefault(key, line) != line:
            yield f"  line {line}: {', '.join(keys)} are those of line {seen[key]}, expected each once"


def _time_problems(line: int, row: dict[str, str]) -> Iterator[str]:
    """A reading takes time; its page need not have been hidden at all."""
    for column, least in zip(TIMES, ("above 0", "from 0"), strict=True):
        value = _seconds(row.get(column, ""))
        if row.get(column) and not (value > 0 or (value == 0 and column != TIMES[0])):
            yield f"  line {line}: {column} is {row[column]!r}, expected a number {least} or nothing"


def _seconds(text: str) -> float:
    """A text as a number, nan where it is none."""
    try:
        value = float(text)
    except ValueError:
        return float("nan")
    return value if math.isfinite(value) else float("nan")


def _grade_problems(line: int, column: str, text: str) -> Iterator[str]:
    if text and text not in {str(grade) for grade in range(eoss.GRADES)}:
        yield f"  line {line}: {column} is {text!r}, expected 0..{eoss.GRADES - 1} or nothing"


def _readings(table: Table, columns_of: tuple[tuple[str, ...], ...], exams: Exams) -> Readings:
    """``columns_of``: grades, reference, ensemble."""
    graded, referenced, _ = columns_of
    lines = _by_session(table.rows)
    rows = [row | exams[row["exam_id"]] for _, row in lines]
    by_patient = "patient_id" in rows[0]
    of_exam = [f"exam {row['exam_id']}" for row in rows]
    places = [f"line {line}" for line, _ in lines], of_exam, of_exam
    impossible: list[str] = []
    columns: dict[str, np.ndarray] = {name: _texts(rows, name) for name in ("exam_id", "reader", "condition")}
    columns["patient"] = _texts(rows, "patient_id" if by_patient else "exam_id")
    for names, where in zip(columns_of, places, strict=True):
        columns |= _with_combined({name: _numbers(rows, name) for name in names}, where, impossible)
    measurements = (*PAIR, COMBINED) if len(graded) == len(referenced) == len(PAIR) else (COMBINED,)
    nothing = np.full(len(rows), MISSING, dtype=np.int64)
    columns |= {name: columns.get(name, nothing) for name in (f"{_ENSEMBLE}{m}" for m in measurements)}
    columns |= {name: np.array([_seconds(row.get(name, "")) for row in rows]) for name in TIMES}
    none = np.all([columns[f"truth_{name}"] == MISSING for name in measurements], axis=0)
    return Readings(
        table=columns,
        measurements=measurements,
        unit="patient" if by_patient else "exam",
        impossible=tuple(dict.fromkeys(impossible)),  # a reference once, however often the exam was read
        unreferenced=tuple(dict.fromkeys(columns["exam_id"][none])),
        sessions=len({row.get("session", "") for row in rows}),
    )


def _by_session(rows: Sequence[tuple[int, dict[str, str]]]) -> list[tuple[int, dict[str, str]]]:
    """Sessions in order: by number if all are numbers, otherwise as texts, as dates are; one without a name first."""
    named = {row.get("session", "") for _, row in rows} - {""}
    if any(math.isnan(_seconds(name)) for name in named):
        return sorted(rows, key=lambda numbered: numbered[1].get("session", ""))
    return sorted(rows, key=lambda numbered: _seconds(numbered[1].get("session") or "-1e300"))


def _texts(rows: Sequence[dict[str, str]], column: str) -> NDArray[np.object_]:
    return np.array([row[column] for row in rows], dtype=object)


def _numbers(rows: Sequence[dict[str, str]], column: str) -> NDArray[np.int64]:
    return np.array([int(row.get(column) or MISSING) for row in rows], dtype=np.int64)


def _with_combined(grades: Grades, places: Sequence[str], impossible: list[str]) -> Grades:
    """Add the combined score where it can be; pairs that cannot be are listed and count as not graded."""
    if len(grades) < len(PAIR):
        return grades
    (h_name, h), (v_name, v) = grades.items()
    graded = (h != MISSING) & (v != MISSING)
    wrong = graded & ~eoss.is_valid(h, v)
    impossible += [
        f"{places[i]}: {h_name} {h[i]} with {v_name} {v[i]}" for i in np.flatnonzero(wrong).tolist()
    ]
    right = graded & ~wrong
    combined = np.full(len(h), MISSING, dtype=np.int64)
    combined[right] = eoss.combined(h[right], v[right])
    h, v = np.where(wrong, MISSING, h), np.where(wrong, MISSING, v)
    return {h_name: h, v_name: v, h_name.replace(PAIR[0], COMBINED): combined}
