"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a reader, after a crash at any instant, finds the old or the new content.

    The content reaches the disk (fsync) before the name does, and the name before this returns.

    Args:
        path: the file; it is replaced.
        content: all that it will hold.
        mode: of the file, less the process's umask; it never has another, not even for an instant.

    Raises:
        OSError: if it cannot be written; then nothing of it stays.
    """
    with drafted(path, content, mode=mode) as draft:
        draft.replace(path)


@contextmanager
def drafted(path: Path, content: bytes, *, mode: int) -> Iterator[Path]:
    """A file beside another, on disk; what is made of it is on disk at the end, and it is gone.

    Raises:
        OSError: if it cannot be written.
    """
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
        sync(path.parent)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, or nothing of it where it does not fit on the disk."""
    with path.open("ab") as file:
        end = file.tell()
        try:
            file.write(line.encode() + b"\n")
            file.flush()
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise
