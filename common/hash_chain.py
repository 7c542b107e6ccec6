"""A chain of lines, each with the hash of the one before: what the site's log and its privacy ledger share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a chain ends.

    Attributes:
        sequence: number of the last whole entry, from 1; 0 in an empty chain.
        hash: SHA-256 of that entry's line, in hex; zeros in an empty chain.
        torn_bytes: length of an incomplete line after it, which a crash left.
    """

    sequence: int
    hash: str
    torn_bytes: int = 0


START = Head(sequence=0, hash="0" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a chain.

    Attributes:
        sequence: its number, from 1.
        hash: SHA-256 of the line, in hex.
        content: what it says; a signature is no part of it.
    """

    sequence: int
    hash: str
    content: Mapping[str, Any]
