"""What figures on synofed's pages share: text that stays text, quiet axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, LINE = "#222222", "#dddddd"
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # searchable, and set in the page's own font
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
HASH_SALT = "synofed"
"""So that the same figure has the same bytes."""
