"""Text of which every character is seen, whoever wrote it."""

from __future__ import annotations

import re

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
