"""Names as file names: of networks and groups, which own methods call what they like."""

from __future__ import annotations

import hashlib
import re

LONGEST = 200
"""Bytes; a file system takes 255, and drafts and endings need some."""
_SAFE = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.=+-]{{0,{LONGEST - 1}}}")
_DIGITS = 16


def file_name(name: str) -> str:
    """A name that any file system takes, the same for the same name, and another for another.

    Slashes are written as dots. What cannot stand in a file's name becomes ``_``, what is too long is cut, and then
    ``_`` is put before it and the beginning of the name's SHA-256 after it.

    Args:
        name: for example ``rating/fold2/vascularity/gt1/b``.
    """
    plain = name.replace("/", ".")
    if _SAFE.fullmatch(plain):
        return plain
    readable = re.sub(r"[^A-Za-z0-9_=+-]+", "_", plain).lstrip("+-=")[: LONGEST - _DIGITS - 2]
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
    return f"_{readable}-{digest}"
