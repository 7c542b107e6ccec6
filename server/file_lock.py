"""A lock that one process holds while it lives: the operating system lets go of it whatever way the process ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".lock"
WAITS_S = (0.05, 0.1, 0.2)
"""Who only looks whether a lock is held holds it for an instant: that is waited for."""


class LockedError(Exception):
    """Another process holds the lock."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        LockedError: if another process holds it.
    """
    with (folder / NAME).open("a+") as file:
        for again_s in (*WAITS_S, None):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if again_s is None:
                    file.seek(0)
                    raise LockedError(file.read().strip()) from None
                time.sleep(again_s)
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
