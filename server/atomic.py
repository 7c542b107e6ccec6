"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_bytes(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a reader, after a crash at any instant, finds the old or the new content.

    The content reaches the disk (fsync) before the name does, and the name before this returns.

    Args:
        path: the file; it is replaced.
        content: all that it will hold.
        mode: of the file, less the process's umask; it never has another, not even for an instant.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


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
