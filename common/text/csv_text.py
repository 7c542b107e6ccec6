"""CSV that synofed writes: safe to open in a spreadsheet, and read back letter by letter.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, wherever its text came from.
Such texts get an apostrophe in front, and :func:`original` takes it away again. Numbers that are numbers stay as they
are.

Source: OWASP, "CSV Injection".
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

Cell = str | int | float | None

_DANGEROUS = re.compile(r"'*(?:\s*[=+\-@＝＋－＠]|[\t\r\n])")  # noqa: RUF001  spreadsheets take the wide forms too


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """The text of a CSV file with a header; ``None`` is an empty cell."""
    return "".join(_line(cells) for cells in (columns, *rows))


def _line(cells: Sequence[Cell]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerow(
        [safe(cell) for cell in cells]
    )  # so "\r" too is quoted
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def of_frame(frame: pd.DataFrame) -> str:
    """The text of a CSV file with the columns of a data frame, without its index."""
    cells = frame.astype(object).where(frame.notna(), None)
    return table([str(column) for column in frame.columns], cells.itertuples(index=False, name=None))


def safe(cell: Cell) -> Cell:
    """A cell that no spreadsheet runs: a text that looks like a formula gets an apostrophe in front."""
    return f"'{cell}" if isinstance(cell, str) and _DANGEROUS.match(cell) else cell


def original(text: str) -> str:
    """What was given to :func:`safe`: ``original(safe(text)) == text`` for every text."""
    return text[1:] if text.startswith("'") and _DANGEROUS.match(text) else text
