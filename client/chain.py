"""The site's audit log: one JSON line an event, each with the hash of the line before.

``<site folder>/audit.jsonl`` is only ever appended to, under a lock that processes and threads share, and is on
disk before the reply that it tells of leaves. It holds hashes, sizes and names of requests, nothing of patients.
What a crash left of a last line is removed by the next entry, which says so: no receipt can exist for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.errors import DataError, VerificationError

NAME = "audit.jsonl"
BLOCK_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a log ends.

    Attributes:
        sequence: number of the last whole entry, from 1; 0 in an empty log.
        hash: SHA-256 of that entry's line, in hex; zeros in an empty log.
        torn_bytes: length of an incomplete line after it, which a crash left.
    """

    sequence: int
    hash: str
    torn_bytes: int = 0


START = Head(sequence=0, hash="0" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the log.

    Attributes:
        sequence: its number, from 1.
        hash: SHA-256 of the line, in hex.
        content: what it says.
    """

    sequence: int
    hash: str
    content: Mapping[str, object]


def append(path: Path, event: str, details: Mapping[str, object]) -> Head:
    """Add an entry; it is on disk when this returns.

    Args:
        path: the log.
        event: what happened, one word.
        details: its facts, of JSON's types; never anything of a patient.

    Returns:
        The new head.

    Raises:
        DataError: if the log cannot be written.
        VerificationError: if its last line is no entry: nothing may leave before that is settled.
    """
    try:
        with _locked(path) as log:
            return _append(log, path, event, details)
    except OSError as error:
        raise DataError(f"The site's log {path} cannot be written: {error.strerror}") from None


def head(path: Path) -> Head:
    """Where the log ends; reads no more than its tail.

    Raises:
        VerificationError: if the last line is no entry.
    """
    try:
        log = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return START
    try:
        return _head(log, path)
    finally:
        os.close(log)


def entries(path: Path) -> Iterator[Entry]:
    """All whole entries in order, each checked against the one before.

    Raises:
        VerificationError: naming the first line that was edited, dropped, added or moved.
    """
    if not path.exists():
        return
    last = START
    with path.open("rb") as log:
        for number, line in enumerate(log, start=1):
            if not line.endswith(b"\n"):
                return
            entry = _entry(line[:-1], path, number)
            if entry.sequence != number:
                raise VerificationError(
                    f"{path}, line {number}: expected entry {number}, got entry {entry.sequence}: a line before "
                    f"it was dropped, added or moved"
                )
            if entry.content["prev"] != last.hash:
                culprit = f"line {number - 1} was edited" if number > 1 else "line 1 was edited"
                raise VerificationError(f"{path}, {culprit}: line {number} does not continue it")
            last = Head(sequence=number, hash=entry.hash)
            yield entry


def verify(path: Path) -> Head:
    """Check the whole log.

    An edit of the very last line, or a tail that is missing as a whole, shows against receipts only.

    Returns:
        Its head, with the length of an incomplete last line if a crash left one.

    Raises:
        VerificationError: naming the first bad line.
    """
    for _ in entries(path):
        pass
    return head(path)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(log, fcntl.LOCK_EX)  # released by close
        yield log
    finally:
        os.close(log)


def _append(log: int, path: Path, event: str, details: Mapping[str, object]) -> Head:
    last = _head(log, path)
    lines = b""
    if last.torn_bytes:
        length = os.fstat(log).st_size - last.torn_bytes
        torn = os.pread(log, last.torn_bytes, length)
        os.ftruncate(log, length)
        facts = {"torn_bytes": len(torn), "torn_hash": hashlib.sha256(torn).hexdigest()}
        line, last = _line(last, "repaired", facts)
        lines += line
    line, new = _line(last, event, details)
    lines += line
    if os.write(log, lines) != len(lines):
        raise DataError(f"The site's log {path} cannot be written: is the disk full?")
    os.fsync(log)
    if last.sequence == 0:
        _sync_folder(path.parent)
    return new


def _line(last: Head, event: str, details: Mapping[str, object]) -> tuple[bytes, Head]:
    content = {
        "seq": last.sequence + 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "event": event,
        **details,
        "prev": last.hash,
    }
    line = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return line + b"\n", Head(sequence=last.sequence + 1, hash=hashlib.sha256(line).hexdigest())


def _head(log: int, path: Path) -> Head:
    size = os.fstat(log).st_size
    block = BLOCK_BYTES
    while True:
        start = max(0, size - block)
        whole, end, torn = os.pread(log, size - start, start).rpartition(b"\n")
        _, before, line = whole.rpartition(b"\n")
        if before or start == 0:
            break
        block *= 2
    if not end:
        return Head(sequence=0, hash=START.hash, torn_bytes=len(torn))
    entry = _entry(line, path, None)
    return Head(sequence=entry.sequence, hash=entry.hash, torn_bytes=len(torn))


def _entry(line: bytes, path: Path, number: int | None) -> Entry:
    try:
        content = json.loads(line)
        sequence, _ = int(content["seq"]), content["prev"]
    except (ValueError, KeyError, TypeError):
        where = f"line {number}" if number is not None else "last line"
        raise VerificationError(
            f"{path}, {where}: expected an entry of the log, got something else: it was edited; "
            f"`synofed site log verify` says more"
        ) from None
    return Entry(sequence=sequence, hash=hashlib.sha256(line).hexdigest(), content=content)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
