"""A file of the site that one holds at a time: others wait until it is let go, or its holder's process ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import StorageError
from common.machine import file_lock


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock's file, made with its folder where it is not there; for its owner alone.

    Raises:
        StorageError: if it cannot be made or locked.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = file_lock.hold(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be locked: {error.strerror}") from None
    with file:
        yield
