"""The one reader of tables: a site's own, a hospital's lists and grades, labels, reader studies.

The header is the first line that has every column that is needed, so that titles may stand above it; where it takes
two lines, a column is called by the lower one, by the upper one where that is empty, or by both with a blank between.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.tables import spreadsheets
from client.data.tables.spreadsheets import SEARCHED, Line
from common.errors import DataError
from common.sections.measurements import NumberSettings

SHOWN_ERRORS = 50
MOST_GRADES = 16
GAPS = ("", "-", "/", ".")
"""How people write that there is no grade."""
Row = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What cannot be read: a cell, or a whole row, whose column is empty then."""

    line: int
    column: str = ""
    what: str

    def __str__(self) -> str:
        return f"{self.column} {self.what}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table's header, and its rows with the line in which each ends.

    Attributes:
        columns: of the header.
        rows: that have as many cells as the header.
        faults: rows that have not, and cells of needed columns that cannot be read.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, Row], ...]
    faults: tuple[Fault, ...] = ()


def read_rows(path: Path, needed: Sequence[str], *, sheet: str = "", header_row: int = 0) -> Table:
    """Read a table of which every row and column must be right.

    Args:
        path: of a CSV or XLSX file, see :mod:`client.data.tables.spreadsheets`.
        needed: columns that must be there.
        sheet: of an XLSX file; the first where empty.
        header_row: line of the header; 0: where it is found.

    Returns:
        Columns and rows; cells are stripped.

    Raises:
        DataError: if the file cannot be read, lacks a column, names one twice, or has no rows; and for rows with
            more or fewer cells than columns and cells that cannot be read, all listed.
    """
    table = read_table(path, needed, sheet=sheet, header_row=header_row)
    _refuse_twice(path, table.columns, set(table.columns))
    refuse_faults(path, table)
    return table


def read_table(path: Path, needed: Sequence[str], *, sheet: str = "", header_row: int = 0) -> Table:
    """Read a hospital's own list: as :func:`read_rows`, but only needed columns must be right; faults are reported.

    Raises:
        DataError: if the file cannot be read, lacks a column, names a needed one twice, or has no rows.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Expected a table at {path}: {error.strerror or error}") from None
    names = [" ".join(column.split()) for column in needed]
    try:
        lines = spreadsheets.read_lines(content, needed=names, sheet=sheet)
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    start, columns = _header(path, lines, names, header_row)
    _refuse_twice(path, columns, set(names))
    rows: list[tuple[int, Row]] = []
    faults: list[Fault] = []
    for line in lines[start:]:
        if not any(line.cells):
            continue
        wrong = None if spreadsheets.is_workbook(content) else _wrong_count(line, columns)
        if wrong is not None:
            faults.append(wrong)
            continue
        filled = [*line.cells, *[""] * (len(columns) - len(line.cells))]
        row = {name: cell for name, cell in zip(columns, filled, strict=False) if name}
        rows.append((line.number, row | {old: row[new] for old, new in zip(needed, names, strict=True)}))
        faults += [
            Fault(line=line.number, column=columns[place], what=what)
            for place, what in sorted(line.faults.items())
            if place < len(columns) and columns[place] in names
        ]
    if not rows and not faults:
        raise DataError(f"Expected at least one row in {path}, got none")
    return Table(columns=_trimmed(columns), rows=tuple(rows), faults=tuple(faults))


def _header(
    path: Path, lines: Sequence[Line], needed: Sequence[str], header_row: int
) -> tuple[int, tuple[str, ...]]:
    """Where the rows begin, and the names of their columns."""
    places = [i for i, line in enumerate(lines) if any(line.cells)][:SEARCHED]
    if header_row:
        places = [i for i, line in enumerate(lines) if line.number == header_row]
        if not places:
            raise DataError(f"Expected the header in line {header_row} of {path}, it has {len(lines)} lines")
    found: list[tuple[int, tuple[str, ...]]] = []
    for place in places:
        above = lines[place - 1].cells if place else ()
        found += [(place + 1, names) for names in _names(lines[place].cells, above)]
    for start, names in found:
        if set(needed) <= set(names):
            return start, names
    start, best = max(found, key=lambda each: len(set(needed) & set(each[1])), default=(0, ()))
    missing = [column for column in needed if column not in best]
    raise DataError(
        f"Expected columns {', '.join(needed)} in {path}; missing: {', '.join(missing)}; there are: "
        f"{', '.join(filter(None, best)) or 'none'}"
    )


def _names(cells: Sequence[str], above: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """How columns may be called: by this line, by it and the one above where it is empty, by both."""
    own = tuple(" ".join(cell.split()) for cell in cells)
    yield own
    upper = [" ".join(cell.split()) for cell in above] + [""] * (len(own) - len(above))
    if any(upper):
        yield tuple(lower or name for lower, name in zip(own, upper, strict=False))
        groups, group = [], ""
        for name in upper:
            group = name or group
            groups.append(group)
        yield tuple(
            f"{name} {lower}".strip() if lower and lower != name else lower or name
            for lower, name in zip(own, groups, strict=False)
        )


def _trimmed(columns: Sequence[str]) -> tuple[str, ...]:
    count = len(columns)
    while count and not columns[count - 1]:
        count -= 1
    return tuple(columns[:count])


def _wrong_count(line: Line, columns: Sequence[str]) -> Fault | None:
    """Of a row with more or fewer cells than columns: a delimiter too many or too few moves all values."""
    least, most = len(_trimmed(columns)), len(columns)
    if len(line.cells) < least or any(line.cells[most:]):
        return Fault(line=line.number, what=f"has {len(line.cells)} cells, expected {least}")
    return None


def _refuse_twice(path: Path, columns: Sequence[str], which: set[str]) -> None:
    twice = sorted(name for name, count in Counter(columns).items() if name and count > 1 and name in which)
    if twice:
        raise DataError(f"Expected each column of {path} once; twice: {', '.join(twice)}")


def refuse_faults(path: Path, table: Table) -> None:
    """Stop if something of a table cannot be read.

    Raises:
        DataError: listing it all.
    """
    refuse(path, [f"  line {fault.line}: {fault}" for fault in table.faults])


def refuse(path: Path, errors: Iterable[str]) -> None:
    """Stop if there are errors.

    Raises:
        DataError: listing them (the first 50).
    """
    listed = list(errors)
    if not listed:
        return
    more = f"\n  ... and {len(listed) - SHOWN_ERRORS} more" if len(listed) > SHOWN_ERRORS else ""
    count = f"{len(listed)} errors" if len(listed) > 1 else "1 error"
    raise DataError(f"{path} has {count}; nothing was imported:\n" + "\n".join(listed[:SHOWN_ERRORS]) + more)


def whole(text: str) -> str:
    """A whole number without the ``.0`` that a column with gaps gets in some programs; other text stays."""
    found = re.fullmatch(r"([0-9]+)[.,]0*", text)
    return found[1] if found else text


def grade(text: str, grades: int) -> str:
    """A whole number below ``grades``, from ``2``, ``2.0``, ``2,0``, ``Grad 2``, ``2°``; empty stays empty.

    Raises:
        DataError: for anything else.
    """
    if text.strip() in GAPS:
        return ""
    found = re.fullmatch(r"(?:grade?\s*)?([0-9]{1,3})(?:[.,]0*)?\s*°?", text.strip(), re.IGNORECASE)
    if not found or int(found[1]) >= grades:
        raise DataError(f"expected a whole number from 0 to {grades - 1}, or nothing")
    return str(int(found[1]))


def number(text: str, of_range: NumberSettings) -> float | None:
    """A number that readers may give, from ``12.5`` or ``12,5``; ``None`` of a gap.

    Raises:
        DataError: for anything else.
    """
    if text.strip() in GAPS:
        return None
    smallest, largest, step = of_range.smallest, of_range.largest, of_range.step
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        value = math.nan
    steps = (value - smallest) / step
    if not smallest <= value <= largest or abs(steps - round(steps)) > 1e-6:
        raise DataError(
            f"expected a number from {smallest:g} to {largest:g} in steps of {step:g}, or nothing"
        )
    return value
