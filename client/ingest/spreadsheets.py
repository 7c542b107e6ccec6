"""Tables as hospitals keep them: XLSX, or CSV with semicolons, tabs, a Windows code page, decimal commas."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from zipfile import BadZipFile

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from client.ingest.rows import Table
from common.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
ZIP = b"PK\x03\x04"
Cells = tuple[int, list[str]]


def read_table(path: Path, *, needed: Sequence[str], sheet: str = "") -> Table:
    """Read a table; decided by its content, not by its name.

    Args:
        path: of a CSV or XLSX file; CSV is in UTF-8, else in Windows-1252.
        needed: columns that must be there.
        sheet: of an XLSX file; the first where empty.

    Returns:
        Columns and rows; cells are stripped, dates as ``2024-03-01``, whole numbers without a point.

    Raises:
        DataError: if it cannot be read, lacks a column, names one twice, or has no rows.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Expected a table at {path}: {error.strerror}") from None
    lines = list(_sheet(content, sheet, path) if content.startswith(ZIP) else _csv(content, path))
    while lines and not any(lines[0][1]):
        lines.pop(0)
    columns = tuple(lines[0][1]) if lines else ()
    while columns and not columns[-1]:
        columns = columns[:-1]
    missing = [column for column in needed if column not in columns]
    if missing:
        raise DataError(
            f"Expected columns {', '.join(needed)} in {path}; missing: {', '.join(missing)}; there are: "
            f"{', '.join(filter(None, columns)) or 'none'}"
        )
    twice = sorted({column for column in needed if columns.count(column) > 1})
    if twice:
        raise DataError(f"Expected each column of {path} once; twice: {', '.join(twice)}")
    rows = [(line, _row(columns, cells)) for line, cells in lines[1:] if any(cells)]
    if not rows:
        raise DataError(f"Expected at least one row in {path}, got none")
    return Table(columns=columns, rows=tuple(rows))


def _row(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    filled = [*cells, *[""] * (len(columns) - len(cells))]
    return dict(zip(columns, filled, strict=False))


def _csv(content: bytes, path: Path) -> Iterator[Cells]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=header.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for cells in reader:
            yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"{path} is not a table: {error}") from None


def _sheet(content: bytes, sheet: str, path: Path) -> Iterator[Cells]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of styles and extensions that nobody here reads
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} is not an XLSX file ({type(error).__name__})") from None
    try:
        if sheet and sheet not in book.sheetnames:
            raise DataError(f"Expected sheet {sheet!r} in {path}, got {', '.join(book.sheetnames)}")
        rows = book[sheet or book.sheetnames[0]].iter_rows(values_only=True)
        for line, cells in enumerate(rows, start=1):
            yield line, [_text(cell) for cell in cells]
    finally:
        book.close()


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime) and cell.time() == time():
        return cell.date().isoformat()
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
