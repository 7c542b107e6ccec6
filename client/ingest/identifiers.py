"""Ids that are probably one person's, typed in different ways."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable


def plain(identifier: str) -> str:
    """An id without case, separators, marks on letters, and leading zeros of each number in it."""
    letters = unicodedata.normalize("NFKD", identifier).casefold()
    parts = re.findall(r"[0-9]+|[^\W\d_]+", letters)
    return "".join(part.lstrip("0") or "0" if part[0].isdecimal() else part for part in parts)


def look_alikes(identifiers: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of different ids that are the same once :func:`plain`."""
    groups: dict[str, set[str]] = {}
    for identifier in identifiers:
        groups.setdefault(plain(identifier), set()).add(identifier)
    return tuple(tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1)
