"""Files of the site that are there whole or not at all, readable by their owner only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import StorageError, refusal
from common.machine import atomic
from common.machine.atomic import Content, sync

__all__ = ["create", "replace_folder", "sync", "write"]


def write(path: Path, content: Content, *, mode: int = 0o600) -> None:
    """Write a file so that a reader, after a crash at any instant, finds the old or the new content.

    Args:
        path: the file; it is replaced, its folder made where there is none.
        content: all that it will hold.
        mode: of the file, less the process's umask.

    Raises:
        StorageError: if it cannot be written; then nothing of it stays.
    """
    with _drafted(path, content, mode=mode) as draft:
        draft.replace(path)


def create(path: Path, content: bytes) -> None:
    """Write a file for its owner only, unless there is one: then that one stays, whoever made it.

    Raises:
        StorageError: if it cannot be written.
    """
    with _drafted(path, content, mode=0o600) as draft, suppress(FileExistsError):
        path.hardlink_to(draft)  # fails if another process was first; never shows half a file


def replace_folder(draft: Path, place: Path) -> None:
    """Put a folder that is whole into its place beside it; what was there before is removed.

    Raises:
        OSError: if it cannot be moved.
    """
    former = place.with_name(f".{place.name}-former")
    shutil.rmtree(former, ignore_errors=True)
    if place.exists():
        place.rename(former)
    draft.rename(place)
    sync(place.parent)
    shutil.rmtree(former, ignore_errors=True)


@contextmanager
def _drafted(path: Path, content: Content, *, mode: int) -> Iterator[Path]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic.drafted(path, content, mode=mode) as draft:
            yield draft
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {refusal(error)}") from None
