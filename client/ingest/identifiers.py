"""Ids that are probably one person's, typed in different ways."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable


def plain(identifier: str) -> str:
    """An id without case, separators, marks on letters, and leading zeros of each number in it."""
    letters = unicodedata.normalize("NFKD", identifier).casefold()
    parts = re.findall(r"[0-9]+|[^\W\d_]+", letters)
    return "".join(part.lstrip("0") or "0" if part[0].isdecimal() else part for part in parts)


def spelling(identifier: str) -> str:
    """An id without case, blanks, and leading zeros of its numbers; separators stay: ``1-12`` is not ``11-2``."""
    text = unicodedata.normalize("NFKC", identifier).casefold()
    text = re.sub(r"(?<=[0-9])\s+(?=[0-9])", "_", text.strip())
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", re.sub(r"\s+", "", text))


def look_alikes(
    identifiers: Iterable[str], *, once: Callable[[str], str] = plain
) -> tuple[tuple[str, ...], ...]:
    """Groups of different ids that are the same once :func:`plain`, or :func:`spelling`."""
    groups: dict[str, set[str]] = {}
    for identifier in identifiers:
        groups.setdefault(once(identifier), set()).add(identifier)
    return tuple(tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1)
