"""What is printed: text as it stands, and nothing in it that a terminal would obey or hide.

Names of readers, devices, sites and files are data: ``[msk]``, ``:eye:`` and ``<b>`` are shown as they were written.
Nothing else in synofed makes a :class:`rich.console.Console` or a :class:`rich.table.Table`.

A table without the room for its longest words is set upright, a line for each cell, so that none of them is cut.
With ``synofed --tables FORM`` tables are printed as Markdown, LaTeX or CSV (:mod:`common.text.table_forms`).
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import click
from rich import box
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from common.text.table_forms import FORMS, PlainTable
from common.text.visible import LAYOUT, visible

__all__ = ["LAYOUT", "Console", "Table", "visible"]


class Console(RichConsole):
    """A console that prints text as it stands.

    Args:
        stderr: print to standard error.
        quiet: print nothing.
        width: in characters; default: the terminal's, or 80.
        file: print there instead.
    """

    def __init__(
        self,
        *,
        stderr: bool = False,
        quiet: bool = False,
        width: int | None = None,
        file: io.StringIO | None = None,
    ) -> None:
        super().__init__(
            stderr=stderr, quiet=quiet, width=width, file=file, markup=False, emoji=False, highlight=False
        )

    def print(self, *objects: Any, **named: Any) -> None:
        """Print; see rich. Tables get the form that the command was asked for."""
        form = _asked_form()
        if form is None:
            super().print(*objects, **named)
            return
        for one in _each(objects):
            if isinstance(one, Table):
                super().print(f"{form(one.plain())}\n", soft_wrap=True)
            else:
                super().print(one, **named)

    def render_str(self, text: str, **named: Any) -> Text:
        """Text for the screen; rich calls this for every plain string that it prints."""
        return super().render_str(visible(text, keep=LAYOUT), **{**named, "markup": False, "emoji": False})


class Table(RichTable):
    """A table whose cells show all of a text: long ones go on in the next line, and none breaks its row.

    A cell with a style or lines of its own is a :class:`rich.text.Text`.
    """

    def add_column(self, *given: Any, **named: Any) -> None:
        """Add a column; see rich."""
        super().add_column(*given, **{"overflow": "fold", **named})

    def add_row(self, *cells: RenderableType | None, **named: Any) -> None:
        """Add a row; see rich."""
        super().add_row(*(visible(cell) if isinstance(cell, str) else cell for cell in cells), **named)

    def plain(self) -> PlainTable:
        """The table's texts, of which other forms are made; what is drawn in a cell has none."""
        columns = [[_text(cell) for cell in column.cells] for column in self.columns]
        header = [_text(column.header) if self.show_header else "" for column in self.columns]
        return PlainTable(
            title=_text(self.title or ""),
            header=header,
            rows=list(zip(*columns, strict=True)),
            right=[column.justify == "right" for column in self.columns],
            ends=frozenset(index for index, row in enumerate(self.rows) if row.end_section),
            note=_text(self.caption or ""),
        )

    def __rich_console__(
        self, console: RichConsole, options: ConsoleOptions
    ) -> Iterable[RenderableType | Segment]:
        """Every word whole where there is room for it, or else upright; see rich."""
        wide = options.update(width=_ANY_WIDTH)
        sizes = [self._sizes(console, wide, column) for column in self.columns]
        fixed = self._extra_width + sum(self._get_padding_width(index) for index in range(len(sizes)))
        room = min(options.max_width, self.width or options.max_width) - fixed
        if sum(size.maximum for size in sizes) <= room:
            return super().__rich_console__(console, options)
        spare = room - sum(size.minimum for size in sizes)
        if spare >= 0:
            return RichTable.__rich_console__(self._of_widths(_shared(sizes, spare)), console, options)
        if self.show_header and len(sizes) > 2:
            return self._upright().__rich_console__(console, options)
        return super().__rich_console__(console, options)

    @staticmethod
    def _sizes(console: RichConsole, options: ConsoleOptions, column: Column) -> Measurement:
        """How wide a column has to be for its words (where it is not wrapped: lines) and for its lines."""
        cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
        longest = max(cell.maximum for cell in cells)
        least = longest if column.no_wrap else max(cell.minimum for cell in cells)
        return Measurement(max(least, column.min_width or 0), max(longest, column.min_width or 0))

    def _of_widths(self, widths: Sequence[int]) -> Table:
        """The same table with columns of these widths."""
        shown = copy.copy(self)
        shown.columns = [
            replace(column, width=width) for column, width in zip(self.columns, widths, strict=True)
        ]
        return shown

    def _upright(self) -> Table:
        """Two columns: for each row, the titles of its cells beside these."""
        shown = Table("", "", title=self.title, show_header=False, box=self.box or box.SIMPLE)
        shown.title_justify, shown.caption = self.title_justify, self.caption
        for number in range(self.row_count):
            for column in self.columns:
                cell = list(column.cells)[number]
                if _text(cell):
                    shown.add_row(" ".join(_text(column.header).split()), cell)
            shown.add_section()
        return shown


_ANY_WIDTH = 100_000
"""More than any text has."""


def _shared(sizes: Sequence[Measurement], spare: int) -> list[int]:
    """The least widths, and what is left given to those that lack it, by how much they lack."""
    lack = [size.maximum - size.minimum for size in sizes]
    return [size.minimum + spare * missing // sum(lack) for size, missing in zip(sizes, lack, strict=True)]


def _text(cell: object) -> str:
    """A cell's text; none of what is drawn."""
    return (
        cell.plain if isinstance(cell, Text) else visible(cell, keep=LAYOUT) if isinstance(cell, str) else ""
    )


def _each(objects: Iterable[Any]) -> Iterator[Any]:
    """What is printed, and of groups what is in them."""
    for one in objects:
        yield from _each(one.renderables) if isinstance(one, Group) else [one]


def _asked_form() -> Callable[[PlainTable], str] | None:
    """The form that the command which runs was asked for with ``--tables``; ``None``: the terminal's."""
    context = click.get_current_context(silent=True)
    return None if context is None else FORMS.get(context.find_root().params.get("tables") or "")
