"""The site's audit log: one JSON line per event, each with the hash of the line before.

``<site folder>/audit.jsonl`` is only ever appended to, under a lock that processes and threads share, and is on
disk before the reply that it tells of leaves. It holds hashes, sizes and names of requests, nothing of patients.
:mod:`client.log.audit` says what its entries tell.
What a crash left of a last line is removed by the next entry, which says so: no receipt can exist for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from common import hash_chain, signed_json
from common.errors import StorageError, VerificationError
from common.hash_chain import START, Entry, Head
from common.machine import atomic, file_lock

NAME = "audit.jsonl"
BLOCK_BYTES = 8192
SEARCH_BYTES = 1 << 20


def append(path: Path, event: str, details: Mapping[str, object], *, durable: bool = True) -> Head:
    """Add an entry.

    Args:
        path: the log.
        event: what happened, one word.
        details: its facts, of JSON's types; never anything of a patient.
        durable: it is on disk when this returns; otherwise it survives the end of this process, and is on disk with
            the next entry that is.

    Returns:
        The new head.

    Raises:
        StorageError: if the log cannot be written; then nothing of the entry stays in it.
        VerificationError: if its last line is no entry: nothing may leave before that is settled.
    """
    try:
        with _locked(path) as log:
            return _append(log, path, event, details, durable=durable)
    except OSError as error:
        raise StorageError(f"The site's log {path} cannot be written: {error.strerror}") from None


def append_numbered(
    path: Path,
    event: str,
    details: Mapping[str, object],
    *,
    name: str,
    counted: Collection[str],
    least: int = 0,
) -> tuple[Head, int]:
    """Add an entry with its number among those whose field ``name`` says the same.

    Args:
        path: the log.
        event: what happened, one word.
        details: its facts; ``name`` is one of them.
        name: of the field.
        counted: events that count where an older version did not number its entries.
        least: the least that the number may be.

    Returns:
        The new head, and the number.

    Raises:
        StorageError: if the log cannot be written.
        VerificationError: if an entry that was looked at is none.
    """
    try:
        with _locked(path) as log:
            number = 1
            for entry in _newest(log, path, name, str(details[name])):
                if "number" in entry.content:
                    number += int(entry.content["number"])
                    break
                number += entry.content.get("event") in counted
            number = max(number, least)
            return _append(log, path, event, {**details, "number": number}, durable=True), number
    except OSError as error:
        raise StorageError(f"The site's log {path} cannot be written: {error.strerror}") from None


def append_new(path: Path, event: str, details: Mapping[str, object]) -> bool:
    """Add an entry, unless the last one of its event says the same.

    Returns:
        Whether it was added.

    Raises:
        StorageError: if the log cannot be written.
        VerificationError: if an entry that was looked at is none.
    """
    try:
        with _locked(path) as log:
            last = next(_newest(log, path, "event", event), None)
            if last is not None and all(last.content.get(key) == value for key, value in details.items()):
                return False
            _append(log, path, event, details, durable=True)
            return True
    except OSError as error:
        raise StorageError(f"The site's log {path} cannot be written: {error.strerror}") from None


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


def newest(path: Path, name: str, value: str) -> Iterator[Entry]:
    """Entries with a field of this value, the newest first; reads only as much of the log as is consumed.

    Raises:
        VerificationError: if one of them is no entry.
    """
    try:
        log = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        yield from _newest(log, path, name, value)
    finally:
        os.close(log)


def last(path: Path) -> Entry | None:
    """The last whole entry.

    Raises:
        VerificationError: if the last line is none.
    """
    try:
        log = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        line, _ = _tail(log)
        return _entry(line, path, None) if line is not None else None
    finally:
        os.close(log)


def entries(path: Path) -> Iterator[Entry]:
    """All whole entries in order, each checked against the one before.

    An edit of the very last line, or a tail that is missing as a whole, shows against receipts only.

    Raises:
        VerificationError: naming the first line that was edited, dropped, added or moved.
    """
    if not path.exists():
        return
    with path.open("rb") as log:
        yield from continued((line[:-1] for line in log if line.endswith(b"\n")), path, after=START)


def continued(lines: Iterable[bytes], path: Path, *, after: Head) -> Iterator[Entry]:
    """Entries that follow each other, each checked against the one before.

    Args:
        lines: whole ones of a log, without their ends.
        path: of the log, for messages.
        after: where the log ended before them.

    Raises:
        VerificationError: as :func:`entries`.
    """
    last = after
    for line in lines:
        number = last.sequence + 1
        entry = _entry(line, path, number)
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


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    with file_lock.hold(path) as log:
        yield log.fileno()


def _append(log: int, path: Path, event: str, details: Mapping[str, object], *, durable: bool) -> Head:
    last = _head(log, path)
    lines = b""
    length = os.fstat(log).st_size - last.torn_bytes
    if last.torn_bytes:
        torn = os.pread(log, last.torn_bytes, length)
        os.ftruncate(log, length)
        line, last = _line(last, "repaired", hash_chain.torn_facts(torn))
        lines += line
    line, new = _line(last, event, details)
    lines += line
    atomic.append(log, lines, durable=durable)
    if last.sequence == 0:
        atomic.sync(path.parent)
    return new


def _line(last: Head, event: str, details: Mapping[str, object]) -> tuple[bytes, Head]:
    line = hash_chain.line(event, details, last=last, time=datetime.now(UTC).isoformat(timespec="seconds"))
    return line + b"\n", last.after(line)


def _head(log: int, path: Path) -> Head:
    line, torn_bytes = _tail(log)
    if line is None:
        return Head(sequence=0, hash=START.hash, torn_bytes=torn_bytes)
    entry = _entry(line, path, None)
    return Head(sequence=entry.sequence, hash=entry.hash, torn_bytes=torn_bytes)


def _tail(log: int) -> tuple[bytes | None, int]:
    """The last whole line, and the length of an incomplete one after it."""
    size = os.fstat(log).st_size
    block = BLOCK_BYTES
    while True:
        start = max(0, size - block)
        whole, end, torn = os.pread(log, size - start, start).rpartition(b"\n")
        _, before, line = whole.rpartition(b"\n")
        if before or start == 0:
            return (line if end else None), len(torn)
        block *= 2


def _newest(log: int, path: Path, name: str, value: str) -> Iterator[Entry]:
    """Entries with a field of this value, from the end; the log is read in large blocks, each once."""
    wanted = json.dumps({name: value}, separators=(",", ":")).encode()[1:-1]
    end, rest = os.fstat(log).st_size, b""
    while end > 0:
        start = max(0, end - SEARCH_BYTES)
        text = os.pread(log, end - start, start) + rest
        # what stands before the first end of a line continues in the block before
        first = (text.find(b"\n") + 1 or len(text)) if start > 0 else 0
        for line in reversed(_lines_with(text, wanted, first)):
            entry = _entry(line, path, None)
            if entry.content.get(name) == value:
                yield entry
        end, rest = start, text[:first]


def _lines_with(text: bytes, wanted: bytes, start: int) -> list[bytes]:
    found = []
    while (place := text.find(wanted, start)) >= 0:
        begin, end = text.rfind(b"\n", 0, place) + 1, text.find(b"\n", place)
        if end < 0:
            break
        found.append(text[begin:end])
        start = end + 1
    return found


def _entry(line: bytes, path: Path, number: int | None) -> Entry:
    try:
        content = signed_json.parse(line)
        sequence, _ = int(content["seq"]), content["prev"]
    except (ValueError, KeyError, TypeError):
        where = f"line {number}" if number is not None else "last line"
        raise VerificationError(
            f"{path}, {where}: expected an entry of the log, got something else: it was edited; "
            f"`synofed site log verify` says more"
        ) from None
    return Entry(sequence=sequence, hash=hashlib.sha256(line).hexdigest(), content=content)
