"""Ids that are probably one person's, typed in different ways."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

NUMBER = re.compile(r"([0-9]+)(?:[.,]0+)?")
"""An id that is a number, as a spreadsheet may have made one of it: ``7.0``."""


def padded(identifier: str, digits: int) -> str:
    """Pad a numeric ID with zeros to ``digits`` digits; other IDs, and all IDs if ``digits`` is 0, stay."""
    found = NUMBER.fullmatch(identifier)
    return found[1].zfill(digits) if digits and found else identifier


def respelled(identifiers: Iterable[str], known: Iterable[str]) -> Mapping[str, str]:
    """Ids that nobody knows -> a known one that differs in zeros, case or separators only."""
    names = set(known)
    by_plain = {_plain_number(name): name for name in sorted(names)}
    unknown = (name for name in identifiers if name and name not in names)
    return {name: by_plain[found] for name in unknown if (found := _plain_number(name)) in by_plain}


def _plain_number(identifier: str) -> str:
    found = NUMBER.fullmatch(identifier)
    return plain(found[1] if found else identifier)


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


def tag(key: bytes, what: str, content: object) -> str:
    """A keyed hash that stands for a content of some kind, in files that hold no names: 32 hex digits."""
    return hmac.new(key, f"{what}\n{content}".encode(), hashlib.sha256).hexdigest()[:32]


def look_alikes(
    identifiers: Iterable[str], *, once: Callable[[str], str] = plain
) -> tuple[tuple[str, ...], ...]:
    """Groups of different ids that are the same once :func:`plain`, or :func:`spelling`."""
    groups: dict[str, set[str]] = {}
    for identifier in identifiers:
        groups.setdefault(once(identifier), set()).add(identifier)
    return tuple(tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1)
