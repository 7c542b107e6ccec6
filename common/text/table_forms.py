"""The forms that a table has outside of terminals and pages: Markdown, LaTeX, CSV.

Text is shown as it is written: what a form would take for its own marks is escaped. LaTeX needs no package, and a
table that is wider than a page's text is set in smaller letters, its cells broken between words.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Final

from common.text import csv_text
from common.text.visible import LAYOUT, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTable:
    """A table of texts, in which lines may be broken.

    Attributes:
        title: above it; may be empty.
        header: one text a column.
        rows: as many texts each.
        right: for each column whether it is flush right, as numbers are.
        ends: rows, counted from 0, after which a group of rows ends.
        note: below it; may be empty.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]
    ends: frozenset[int] = frozenset()
    note: str = ""


def markdown(table: PlainTable) -> str:
    """A table as GitHub's Markdown, its title in bold above it."""
    rule = "".join("---:|" if right else "---|" for right in table.right)
    lines = [_markdown_row(table.header), f"|{rule}", *map(_markdown_row, table.rows)]
    title = f"**{_markdown_text(table.title)}**" if table.title else ""
    return "\n\n".join(filter(None, (title, "\n".join(lines), _markdown_text(table.note))))


def latex(table: PlainTable) -> str:
    """A table as a LaTeX ``table``, its title as the caption."""
    size, table = _fitted(table)
    columns = "".join("r" if right else "l" for right in table.right)
    last = len(table.rows) - 1
    lines = [
        "\\begin{table}",
        "\\centering",
        f"{size}\\setlength{{\\tabcolsep}}{{3pt}}" if size else "",
        f"\\caption{{{_latex_text(table.title)}}}" if table.title else "",
        f"\\begin{{tabular}}{{{columns}}}",
        _LINE,
        f"{_latex_row(table.header, table.right)} {_LINE}" if any(table.header) else "",
        *(
            _latex_row(row, table.right) + (f" {_LINE}" if index in table.ends and index < last else "")
            for index, row in enumerate(table.rows)
        ),
        _LINE,
        "\\end{tabular}",
        f"\\par {_latex_text(table.note)}" if table.note else "",
        "\\end{table}",
    ]
    return "\n".join(filter(None, lines))


def csv(table: PlainTable) -> str:
    """A table's header and rows as CSV."""
    return csv_text.table(table.header, table.rows).rstrip("\n")


FORMS: Final[Mapping[str, Callable[[PlainTable], str]]] = {"markdown": markdown, "latex": latex, "csv": csv}
"""Name of a form -> how a table gets it."""

_LINE, _END = "\\hline", " \\\\"
_ROOM, _BETWEEN = 52, 2
"""Letters in a line of a page's text (345 pt, letters of 10 pt), and those that the space between columns takes."""
_SMALLER = {"\\footnotesize": 74, "\\scriptsize": 84, "\\tiny": 106}
"""Size -> the same, with columns that are one letter apart."""
_MARKS = re.compile(r"[\\`*_\[\]<>|~&$]")
_LATEX = {
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "→": "$\\rightarrow$",
    "±": "$\\pm$",
    "×": "$\\times$",  # noqa: RUF001  a sign
    "−": "$-$",  # noqa: RUF001  a minus sign
    "✓": "(right)",
    "✗": "(wrong)",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{mark: f"{{{mark}}}" for mark in "[*"},  # what follows an end of row would be taken as its argument
}


def _markdown_text(text: str) -> str:
    return _MARKS.sub(r"\\\g<0>", visible(text, keep=LAYOUT)).replace("\n", "<br>")


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_markdown_text, cells))} |"


def _latex_text(text: str) -> str:
    shown = "".join(_LATEX.get(letter, letter) for letter in visible(text, keep=LAYOUT))
    return " ".join(shown.replace("--", "-{}-").split())


def _fitted(table: PlainTable) -> tuple[str, PlainTable]:
    """The size of letters in which a table fits, and the table with its cells broken for that; empty: as it is."""
    if sum(map(_width, _columns(table))) + _BETWEEN * len(table.right) <= _ROOM:
        return "", table
    table = _each(table, lambda text, column: text.replace(" (", "\n("))
    columns = _columns(table)
    wanted, least = list(map(_width, columns)), [_width(text.split()) for text in map(" ".join, columns)]
    rooms = {size: letters - len(columns) for size, letters in _SMALLER.items()}
    size = next((size for size, room in rooms.items() if sum(least) <= room), list(rooms)[-1])
    while sum(wanted) > rooms[size] and wanted != least:
        widest = max(range(len(wanted)), key=lambda i: wanted[i] if wanted[i] > least[i] else 0)
        wanted[widest] -= 1

    def broken(text: str, column: int) -> str:
        lines = (
            textwrap.wrap(line, max(1, wanted[column]), break_on_hyphens=False) or [""]
            for line in text.split("\n")
        )
        return "\n".join(part for parts in lines for part in parts)

    return size, _each(table, broken)


def _columns(table: PlainTable) -> list[list[str]]:
    """The lines of each column's cells."""
    columns = zip(table.header, *table.rows, strict=True)
    return [[line for text in column for line in text.split("\n")] for column in columns]


def _width(lines: Sequence[str]) -> int:
    return max(map(len, lines), default=0)


def _each(table: PlainTable, change: Callable[[str, int], str]) -> PlainTable:
    header, *rows = (
        [change(text, column) for column, text in enumerate(cells)] for cells in (table.header, *table.rows)
    )
    return replace(table, header=header, rows=rows)


def _latex_row(cells: Sequence[str], right: Sequence[bool]) -> str:
    return " & ".join(map(_latex_cell, cells, right)) + _END


def _latex_cell(text: str, right: bool) -> str:
    lines = f"{_END} ".join(map(_latex_text, text.split("\n")))
    side = "r" if right else "l"
    return (
        f"\\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}\\strut {lines}\\end{{tabular}}" if "\n" in text else lines
    )


def of_page(html: str) -> Iterator[PlainTable]:
    """The tables of a page of ours, each with the headings above it as its title.

    Those that stand beside an exam's pictures are left out.
    """
    reader = _Reader()
    reader.feed(html)
    yield from reader.found


class _Reader(HTMLParser):
    """Collects header, rows and headings."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[PlainTable] = []
        self._headings = {"h2": "", "h3": ""}
        self._rows: list[list[str]] = []
        self._header: list[str] = []
        self._text: list[str] | None = None
        self._beside_pictures = self._badge = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, a row or a text."""
        style = (dict(attrs).get("class") or "").split()
        if tag == "table":
            self._rows, self._header = [], []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", *self._headings):
            self._text = []
        elif tag == "small" and self._text:
            self._text.append(" (")
        elif tag == "span" and "badge" in style:
            self._badge = True
        elif tag == "div" and "exam" in style:
            self._beside_pictures = True

    def handle_endtag(self, tag: str) -> None:
        """End what began."""
        if tag == "small" and self._text:
            self._text.append(")")
        elif tag == "span":
            self._badge = False
        elif tag in ("td", "th") and self._text is not None:
            self._rows[-1].append(self._ended())
        elif tag in self._headings and self._text is not None:
            self._headings |= {"h3": ""} | {tag: self._ended()}
        elif tag == "thead":
            self._header = self._rows.pop()
        elif tag == "table":
            self._end_table()

    def handle_data(self, data: str) -> None:
        """Collect text that is wanted."""
        if self._text is not None and not self._badge:
            self._text.append(data)

    def _ended(self) -> str:
        text, self._text = " ".join("".join(self._text or ()).split()), None
        return text

    def _end_table(self) -> None:
        beside, self._beside_pictures = self._beside_pictures, False
        width = max(map(len, [self._header, *self._rows]), default=0)
        if beside or not self._rows:
            return
        header, *rows = ((*cells, *[""] * (width - len(cells))) for cells in (self._header, *self._rows))
        title = ": ".join(filter(None, self._headings.values()))
        right = tuple(column > 0 for column in range(width))
        self.found.append(PlainTable(title=title, header=header, rows=rows, right=right))
