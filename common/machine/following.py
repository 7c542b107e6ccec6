"""Lines that others add to a file, each read once: it may be replaced, cut short, or not be there yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

BLOCK_BYTES = 1 << 20
KNOWN_BYTES = 256
"""Before the place up to which a file was read: where they are others, it is another file."""

Stamp = tuple[int, int, int]
Made = TypeVar("Made")


def stamp(path: Path) -> Stamp | None:
    """What changes whenever a file is written or replaced; ``None``: it is not there."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What a look found.

    Attributes:
        lines: whole ones, without their ends.
        afresh: whether they are a file's first, so that what was found before no longer counts.
    """

    lines: Sequence[bytes] = ()
    afresh: bool = False


@dataclass(slots=True)
class Following:
    """A file that grows by lines.

    Args:
        path: the file.
        last_bytes: how much of its end is looked at first; ``None``: all of it.
    """

    path: Path
    last_bytes: int | None = None
    _stamp: Stamp | None = None
    _offset: int = 0
    _before: bytes = b""

    def look(self) -> Added:
        """The lines since the last look; a last line without its end waits until it has one.

        Raises:
            OSError: if the file is there and cannot be read.
        """
        found = stamp(self.path)
        if found == self._stamp:
            return Added()
        try:
            with self.path.open("rb", buffering=0) as file:
                added = self._read(file.fileno())
        except FileNotFoundError:
            added, found = Added(afresh=self._offset > 0), None
            self._offset, self._before = 0, b""
        self._stamp = found
        return added

    def _read(self, file: int) -> Added:
        size = os.fstat(file).st_size
        known = len(self._before)
        afresh = size < self._offset or os.pread(file, known, self._offset - known) != self._before
        if afresh:
            self._offset, self._before = 0, b""
        start = self._offset
        if start == 0 and self.last_bytes is not None:
            start = max(0, size - self.last_bytes)
        text = b"".join(
            os.pread(file, min(BLOCK_BYTES, size - place), place) for place in range(start, size, BLOCK_BYTES)
        )
        whole, end, _ = text.rpartition(b"\n")
        if not end:
            return Added(afresh=afresh)
        cut = start > self._offset  # in the midst of a line
        self._offset = start + len(whole) + 1
        self._before = (self._before + whole + end)[-KNOWN_BYTES:]
        return Added(lines=whole.split(b"\n")[cut:], afresh=afresh)


@dataclass(slots=True)
class Remembered(Generic[Made]):
    """What is made of files, made again only when one of them has changed.

    Args:
        paths: the files.
        make: of them.
    """

    paths: Sequence[Path]
    make: Callable[[], Made]
    _stamps: list[Stamp | None] | None = None
    _made: list[Made] = field(default_factory=list)

    def look(self) -> Made:
        """It, as the files are now."""
        found = [stamp(path) for path in self.paths]
        if found != self._stamps:
            self._made = [self.make()]
            self._stamps = found
        return self._made[0]
