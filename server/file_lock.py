"""A lock that one process holds while it lives: the operating system lets go of it whatever way the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".lock"


class LockedError(Exception):
    """Another process holds the lock."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        LockedError: if another process holds it.
    """
    with (folder / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise LockedError(file.read().strip()) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def holder(folder: Path) -> int | None:
    """The process that holds the lock of a folder, if one does."""
    try:
        with alone(folder):
            return None
    except LockedError as error:
        return int(str(error) or 0)
