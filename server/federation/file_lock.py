"""A lock that one process holds while it lives: the operating system lets go of it whatever way the process ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

NAME = ".lock"
WAITS_S = (0.05, 0.1, 0.2)
"""Who only looks whether a lock is held holds it for an instant: that is waited for."""


class LockedError(Exception):
    """Another process holds the lock: its number, its machine, and since when."""


@contextmanager
def alone(folder: Path, *, name: str = NAME, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock that lies in a folder.

    The file stays when the lock is let go: a lock of its own would be needed to remove it.

    Args:
        folder: where the lock lies.
        name: of its file there.
        wait: told, once, who holds it, before it is waited for; ``None``: a lock that is held is an error.

    Raises:
        LockedError: if another process holds it.
    """
    with (folder / name).open("a+") as file:
        for again_s in (*WAITS_S, None):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if again_s is not None:
                    time.sleep(again_s)
                    continue
                if wait is None:
                    raise LockedError(_held_by(file)) from None
                wait(_held_by(file))
                fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"{os.getpid()} on {socket.gethostname()} since {since}\n")
        file.flush()
        yield


@contextmanager
def alone_beside(path: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of a folder that may come, go and be renamed meanwhile: it lies beside it.

    Raises:
        LockedError: as :func:`alone`.
    """
    place = path.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with alone(place.parent, name=f".{place.name}{NAME}", wait=wait):
        yield


def holder(folder: Path) -> int | None:
    """The process that holds the lock of a folder, if one does."""
    try:
        with alone(folder):
            return None
    except LockedError as error:
        return int((str(error).split() or ["0"])[0])


def _held_by(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()
