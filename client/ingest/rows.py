"""Rows of a hospital's tables, and how their errors are listed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError

SHOWN_ERRORS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table's header, and its rows with the line in which each ends."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_rows(path: Path, needed: Sequence[str]) -> Table:
    """Read a CSV file in UTF-8, with or without a byte order mark; cells are stripped.

    Args:
        path: the file.
        needed: columns that must be there.

    Raises:
        DataError: if the file cannot be read, lacks a column, names one twice, or has no rows; and for rows
            with more cells than columns, all listed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = tuple(cell.strip() for cell in next(reader, []))
            _check_columns(path, columns, needed)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except OSError as error:
        raise DataError(f"Expected a table at {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}") from None
    if not lines:
        raise DataError(f"Expected at least one row in {path}, got none")
    refuse(
        path,
        (
            f"  line {line}: has {len(cells)} cells, expected {len(columns)}"
            for line, cells in lines
            if len(cells) > len(columns)
        ),
    )
    filler = [""] * len(columns)
    rows = tuple(
        (line, dict(zip(columns, cells + filler[len(cells) :], strict=True))) for line, cells in lines
    )
    return Table(columns=columns, rows=rows)


def refuse(path: Path, errors: Iterator[str] | Sequence[str]) -> None:
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


def _check_columns(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    missing = [column for column in needed if column not in columns]
    if missing:
        raise DataError(f"Expected columns {', '.join(needed)} in {path}; missing: {', '.join(missing)}")
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise DataError(f"Expected each column of {path} once; twice: {', '.join(twice)}")
