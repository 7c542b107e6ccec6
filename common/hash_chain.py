"""A chain of lines, each with the hash of the one before: what the site's log and its privacy ledger share."""

from __future__ import annotations

import hashlib
import json
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

    def after(self, line: bytes) -> Head:
        """Where the chain ends with one more line; its newline does not count."""
        return Head(sequence=self.sequence + 1, hash=hashlib.sha256(line).hexdigest())


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


def line(event: str, facts: Mapping[str, object], *, last: Head, time: str) -> bytes:
    """The next line, without its newline: number, time and event, then the facts in their order, then the hash.

    Raises:
        TypeError: for facts that JSON cannot hold.
        ValueError: for NaN and infinity.
    """
    content = {"seq": last.sequence + 1, "time": time, "event": event, **facts, "prev": last.hash}
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def torn_facts(torn: bytes) -> dict[str, object]:
    """What the next entry says of an incomplete line that a crash left, and that it removes."""
    return {"torn_bytes": len(torn), "torn_hash": hashlib.sha256(torn).hexdigest()}
