"""Locks on files: the operating system lets go of one whatever way its holder ends, even when it is killed.

All are ``flock`` on an open file. Who opens the same file waits for it, in this process or another; a child that was
forked while it is held shares it; a program that is started does not.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: what needs no lock works all the same
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
WAITS_S = (0.05, 0.1, 0.2)
"""Who only looks whether a lock is held holds it for an instant: that is waited for."""


class LockedError(Exception):
    """Another process holds the lock: its number, its machine, and since when."""


def hold(place: Path, *, mode: int = 0o600, wait: bool = True) -> FileIO:
    """Open a file, made where it is not there, and lock it: nobody else holds it until it is closed.

    Args:
        place: the file; its own folder has to be there. What is written goes to its end.
        mode: of the file if it is made, less the process's umask.
        wait: for whoever holds it.

    Returns:
        The open file, not buffered, to read and write: what it is read for may be the file itself.

    Raises:
        BlockingIOError: if somebody else holds it and is not waited for.
        OSError: if it cannot be opened or locked; network file systems often cannot lock.
    """
    file = _opened(place, mode)
    try:
        take(file, wait=wait)
    except BaseException:
        file.close()
        raise
    return file


def take(file: BinaryIO | FileIO, *, wait: bool = True) -> None:
    """Lock an open file until it is closed; arguments and errors as of :func:`hold`."""
    _check_system()
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(place: Path) -> bool:
    """Whether somebody holds a lock; its file is neither made nor written.

    Raises:
        OSError: if it cannot be opened, or it cannot be told.
    """
    _check_system()
    try:
        with place.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def alone(folder: Path, *, name: str = NAME, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock that lies in a folder, and say in it who holds it.

    The file stays when the lock is let go: a lock of its own would be needed to remove it.

    Args:
        folder: where the lock lies.
        name: of its file there.
        wait: told, once, who holds it, before it is waited for; ``None``: a lock that is held is an error.

    Raises:
        LockedError: if another process holds it.
        OSError: if it cannot be locked.
    """
    with _opened(folder / name, 0o666) as file:
        for again_s in (*WAITS_S, None):
            try:
                take(file, wait=False)
                break
            except BlockingIOError:
                if again_s is not None:
                    time.sleep(again_s)
                    continue
                if wait is None:
                    raise LockedError(_held_by(file)) from None
                wait(_held_by(file))
                take(file)
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"{os.getpid()} on {socket.gethostname()} since {since}\n".encode())
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


def _check_system() -> None:
    if fcntl is None:
        raise OSError(
            errno.ENOSYS, "files cannot be locked on this system, which has no flock (on Windows use WSL)"
        )


def _opened(place: Path, mode: int) -> FileIO:
    return FileIO(os.open(place, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode), "r+")


def _held_by(file: FileIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()
