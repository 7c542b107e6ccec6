"""What is printed: text as it stands, and nothing in it that a terminal would obey or hide.

Names of readers, devices, sites and files are data: ``[msk]``, ``:eye:`` and ``<b>`` are shown as they were written.
Nothing else in synofed makes a :class:`rich.console.Console` or a :class:`rich.table.Table`.
"""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, the escape that starts a terminal's commands among them
    "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # no width, turned, broken
    "\ud800-\udfff\U000e0000-\U000e007f]"  # half characters, tags
)
LAYOUT = "\n\t"
"""What text of our own may hold."""


def visible(text: str, *, keep: str = "") -> str:
    r"""Text in which every character is seen: ``\x1b`` and ``\u202e`` are written out.

    Joiners (U+200C, U+200D) stay: Persian and Indic names are written with them.

    Args:
        text: of whatever origin.
        keep: characters that are not written out, such as :data:`LAYOUT`.
    """
    return _UNSEEN.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text
    )


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
