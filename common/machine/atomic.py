"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

from common.machine import file_lock

Content: TypeAlias = bytes | memoryview | Sequence[bytes | memoryview]
"""All that a file will hold, in one piece or in several that follow each other."""
NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
"""Not on Windows."""


def write(path: Path, content: Content, *, mode: int = 0o666) -> None:
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


def write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that is not there yet, on any disk; a crash may leave a part of it.

    Raises:
        FileExistsError: if there is one; it stays.
        OSError: if it cannot be written; then nothing of it stays.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb", buffering=0) as file:
        try:
            append(file.fileno(), content)
            sync(path.parent)
        except OSError:
            path.unlink(missing_ok=True)
            raise


@contextmanager
def drafted(path: Path, content: Content, *, mode: int) -> Iterator[Path]:
    """A file beside another, on disk; what is made of it is on disk at the end, and it is gone.

    What a process that was killed left of the same file is removed first: whoever writes a draft holds its lock, and
    nobody holds that of a dead one. On a disk that cannot lock it stays.

    Raises:
        OSError: if it cannot be written.
    """
    _remove_left_over(path)
    draft, file = _begun(path, mode)
    with file:
        try:
            file.writelines([content] if isinstance(content, bytes | memoryview) else content)
            to_disk(file)
            yield draft
            sync(path.parent)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def to_disk(file: BinaryIO) -> None:
    """Bring what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync(place: Path) -> None:
    """Bring a folder's names, or a file that was closed, to the disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring a folder with all that it holds to the disk, so that it can be renamed to its place."""
    for place in (*folder.rglob("*"), folder):
        sync(place)


def append(descriptor: int, data: bytes, *, durable: bool = True) -> None:
    """Add to the end of an open file, or nothing where it does not fit on the disk.

    Args:
        descriptor: of the file, opened to append; nobody else writes there meanwhile.
        data: what is added.
        durable: it is on disk when this returns.

    Raises:
        OSError: if it cannot be written; then nothing of it stays.
    """
    size_bytes = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, "is the disk full?")
        if durable:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size_bytes)
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, or nothing of it where it does not fit on the disk."""
    with path.open("ab") as file:
        append(file.fileno(), line.encode() + b"\n", durable=False)


def _begun(path: Path, mode: int) -> tuple[Path, BinaryIO]:
    while True:
        draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        file = os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
        with suppress(OSError):
            file_lock.take(file)
        if os.fstat(file.fileno()).st_nlink:
            return draft, file
        file.close()  # another writer took it for left over before it was locked


def _remove_left_over(path: Path) -> None:
    drafts = re.compile(rf"\.{re.escape(path.name)}-[0-9a-f]{{8}}")
    with suppress(PermissionError):  # a folder may be written and not listed
        for name in filter(drafts.fullmatch, os.listdir(path.parent)):  # noqa: PTH208  paths cost twice as much
            draft = path.with_name(name)
            with suppress(OSError), os.fdopen(os.open(draft, os.O_RDWR | NO_LINK), "r+b") as file:
                file_lock.take(file, wait=False)
                draft.unlink(missing_ok=True)
