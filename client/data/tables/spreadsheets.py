"""Lines and cells of a table's file, whatever program wrote it.

CSV with commas, semicolons, tabs or bars, in UTF-8, UTF-16 or Windows-1252, with or without a mark; or XLSX. What the
file says by its looks is kept: zeros in front of an id, a cell that is merged over several rows.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from itertools import islice, zip_longest
from zipfile import BadZipFile, ZipFile

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from common.errors import DataError
from common.text import csv_text

DELIMITERS = (",", ";", "\t", "|")
SEARCHED = 20
"""Lines in which a header is looked for."""
ZIP, OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
MARKS = (
    (codecs.BOM_UTF8, ""),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, with whose mark it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of a file.

    Attributes:
        number: of the line in which it ends, of a sheet's row; from 1.
        cells: stripped.
        faults: place of a cell -> why it cannot be read.
        source: its own bytes, of CSV alone.
    """

    number: int
    cells: tuple[str, ...]
    faults: Mapping[int, str] = field(default_factory=dict)
    source: bytes = b""


def is_workbook(content: bytes) -> bool:
    """Whether a file is XLSX: decided by its content, not by its name."""
    return content.startswith(ZIP)


def read_lines(content: bytes, *, needed: Sequence[str] = (), sheet: str = "") -> list[Line]:
    """The rows of a file, header and titles among them.

    Args:
        content: of a CSV or XLSX file.
        needed: columns that its header should have, which decide the delimiter.
        sheet: of an XLSX file; the first where empty.

    Raises:
        DataError: if it is no such file.
    """
    if content.startswith(OLE):
        raise DataError("is an old Excel file, or has a password: save it as .xlsx without one, or as CSV")
    return list(_sheet(content, sheet) if is_workbook(content) else _csv(content, needed))


def _csv(content: bytes, needed: Sequence[str]) -> Iterator[Line]:
    texts, sources = _texts(content)
    first = next((i for i, text in enumerate(texts) if text.strip()), 0)
    told = re.fullmatch(r"\s*\"?sep=([,;|\t])\"?\s*", texts[first]) if texts else None
    delimiter = told[1] if told else _delimiter(texts, needed)
    begin = 0
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            is_told = told and begin <= first < reader.line_num  # `sep=;` is for the spreadsheet
            yield Line(
                number=reader.line_num,
                cells=() if is_told else tuple(csv_text.original(cell.strip()) for cell in cells),
                source=b"".join(sources[begin : reader.line_num]),
            )
            begin = reader.line_num
    except csv.Error as error:
        raise DataError(f"is not a table: {error}, in the row that begins in line {begin + 1}") from None


def _texts(content: bytes) -> tuple[list[str], list[bytes]]:
    """Lines as text, and their own bytes.

    A line that is not UTF-8 is taken for Windows-1252: a table may have been written by two programs.
    """
    mark, encoding = next((each for each in MARKS if content.startswith(each[0])), (b"", ""))
    body = content.removeprefix(mark)
    if not encoding and body.count(0) > len(body) / 4:  # every other byte of most letters
        encoding = "utf-16-le" if body[1::2].count(0) >= body[::2].count(0) else "utf-16-be"
    if encoding:
        try:
            texts = list(io.StringIO(body.decode(encoding), newline=""))
        except UnicodeDecodeError:
            raise DataError(f"is not a table: its letters are neither UTF-8 nor {encoding.upper()}") from None
        sources = [text.encode(encoding) for text in texts]
    else:
        sources = body.splitlines(keepends=True)
        texts = [_decoded(line, number) for number, line in enumerate(sources, start=1)]
    if any("\0" in text for text in texts):
        raise DataError("is not a table: it holds zero bytes")
    if texts and texts[0].lstrip().lower().startswith(("<html", "<!doctype", "<table", "<?xml")):
        raise DataError("is a page in HTML or XML: save it as .xlsx or as CSV")
    return texts, [mark + sources[0], *sources[1:]] if sources else []


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return line.decode("cp1252")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not a table: line {number} has the byte 0x{line[error.start]:02X}, which is neither UTF-8 nor "
            f"Windows-1252: save it as UTF-8"
        ) from None


def _delimiter(texts: Sequence[str], needed: Sequence[str]) -> str:
    """The one by which the most of the needed columns are found; else the most frequent in the first line."""
    header = next((text for text in texts if text.strip()), "")

    def fits(delimiter: str) -> tuple[int, int]:
        found = 0
        try:
            for cells in islice(csv.reader(texts, delimiter=delimiter), SEARCHED):
                found = max(found, len(set(needed) & {" ".join(cell.split()) for cell in cells}))
        except csv.Error:
            pass
        return found, header.count(delimiter)

    return max(DELIMITERS, key=fits)


def _sheet(content: bytes, sheet: str) -> Iterator[Line]:
    values, formulas = _book(content, data_only=True), _book(content, data_only=False)
    try:
        names = [page.title for page in values.worksheets]  # charts are no tables
        if (sheet and sheet not in names) or not names:
            raise DataError(f"has no sheet {sheet!r}, but {', '.join(map(repr, names)) or 'none'}")
        name = sheet or names[0]
        pages = values[name], formulas[name]
        for page in pages:
            page.reset_dimensions()  # some programs write wrong ones
        lines = [
            _line(number, shown, written)
            for number, (shown, written) in enumerate(
                zip_longest(*(page.iter_rows() for page in pages), fillvalue=()), 1
            )
        ]
    finally:
        values.close()
        formulas.close()
    for first_row, last_row, first, last in _merged(content, name):
        for index in range(first_row - 1, min(last_row, len(lines))):
            lines[index] = _unmerged(lines[index], lines[first_row - 1], first - 1, last)
    yield from lines


def _book(content: bytes, *, data_only: bool, read_only: bool = True) -> openpyxl.Workbook:
    if b"opendocument" in content[:200]:
        raise DataError("is an OpenDocument table: save it as .xlsx or as CSV")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of styles and extensions that nobody here reads
            return openpyxl.load_workbook(io.BytesIO(content), read_only=read_only, data_only=data_only)
    except (BadZipFile, InvalidFileException, KeyError, ValueError, TypeError, OSError) as error:
        raise DataError(f"is not an XLSX file ({type(error).__name__})") from None


def _merged(content: bytes, sheet: str) -> list[tuple[int, int, int, int]]:
    """First and last row, first and last column of merged cells; a sheet is read as a whole where there are some."""
    with ZipFile(io.BytesIO(content)) as parts:
        pages = [name for name in parts.namelist() if name.startswith("xl/worksheets/")]
        if not any(b"<mergeCell " in parts.read(name) for name in pages):
            return []
    ranges = _book(content, data_only=True, read_only=False)[sheet].merged_cells.ranges
    return sorted((each.min_row, each.max_row, each.min_col, each.max_col) for each in ranges)


def _unmerged(line: Line, top: Line, first: int, last: int) -> Line:
    """A row with what a merged cell shows in it: over rows its value; over columns nobody can tell whose it is."""
    if not any(line.cells):
        return line
    if last - first > 1:
        why = "is merged with the cells beside it: divide them, so that each column has its own value"
        return replace(line, faults={**line.faults, **dict.fromkeys(range(first, last), why)})
    cells = [*line.cells, *[""] * (first + 1 - len(line.cells))]
    if not cells[first] and first < len(top.cells):
        cells[first] = top.cells[first]
    return replace(line, cells=tuple(cells))


def _line(number: int, shown: Sequence[object], written: Sequence[object]) -> Line:
    cells, faults = [], {}
    for place, (cell, source) in enumerate(zip_longest(shown, written)):
        value = getattr(cell, "value", None)
        if value is None and getattr(source, "data_type", "") == "f":
            value = getattr(source, "value", None)
            faults[place] = (
                "is a formula without a stored value: open the file in a spreadsheet program and save it there"
            )
        elif getattr(cell, "data_type", "") == "e":
            faults[place] = f"is the error {value}"
        cells.append(_text(getattr(value, "text", value), str(getattr(cell, "number_format", ""))))
    return Line(number=number, cells=tuple(cells), faults=faults)


def _text(value: object, number_format: str) -> str:
    """As one reads it: dates as ``2024-03-01``, whole numbers without a point, with the zeros that are shown."""
    if value is None:
        return ""
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and re.fullmatch(r"0+", number_format):
        return str(value).zfill(len(number_format))
    return str(value).strip()
