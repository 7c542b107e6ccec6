"""What figures on synofed's pages share: text that stays text, quiet axes, no background."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from common.text.terminal import LAYOUT, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

INK, LINE = "#222222", "#dddddd"
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # searchable, and set in the page's own font
    "text.parse_math": False,  # a name may hold $ and _
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
HASH_SALT = "synofed"
"""So that the same figure has the same bytes."""

_LETTER_IN, _USUAL_LETTERS = 0.075, 36


def room_in(labels: Iterable[str]) -> float:
    """Inches that a figure has to be wider for its longest label, beyond what usual labels take."""
    return _LETTER_IN * max(0, max(map(len, labels), default=0) - _USUAL_LETTERS)


def svg(figure: Figure) -> str:
    """A figure as an SVG document, every character of its text visible, and none that XML forbids.

    Args:
        figure: drawn within matplotlib's ``rc_context`` with :data:`STYLE`.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415

    buffer = io.StringIO()
    with warnings.catch_warnings():
        # text stays text: whoever shows the page has the letters that the font here lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        # not savefig, which draws what has a layout twice
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            buffer, metadata={"Date": None, "Creator": None}
        )
    return visible(buffer.getvalue(), keep=LAYOUT)


def element(document: str) -> str:
    """The SVG element of a document for an HTML page, its ink and lines in the page's own colours."""
    found = re.sub(r"<metadata>.*?</metadata>", "", document[document.index("<svg") :], flags=re.DOTALL)
    return found.replace(INK, "currentColor").replace(LINE, "var(--line)")
