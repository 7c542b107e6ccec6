"""Files of the site that are there whole or not at all, readable by their owner only."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from common.errors import StorageError


def write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that a reader, after a crash at any instant, finds the old or the new content.

    Args:
        path: the file; it is replaced, its folder made where there is none.
        content: all that it will hold.
        mode: of the file, less the process's umask.

    Raises:
        StorageError: if it cannot be written; then nothing of it stays.
    """
    with _drafted(path, content, mode) as draft:
        draft.replace(path)


def create(path: Path, content: bytes) -> None:
    """Write a file for its owner only, unless there is one: then that one stays, whoever made it.

    Raises:
        StorageError: if it cannot be written.
    """
    with _drafted(path, content, 0o600) as draft, contextlib.suppress(FileExistsError):
        path.hardlink_to(draft)  # fails if another process was first; never shows half a file


def sync(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _drafted(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A file beside another, on disk; what is made of it is on disk at the end, and it is gone."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
