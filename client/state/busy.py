"""One process at a time works for an enrolled site: two copies of it would give two answers to one request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from common.errors import BusyError, StorageError
from common.machine import file_lock


@dataclass(slots=True)
class _Lock:
    file: FileIO
    holders: int = 0


NAME = ".working"

_held: dict[Path, _Lock] = {}
_guard = threading.Lock()


@contextmanager
def working(site_folder: Path) -> Iterator[None]:
    """Keep other processes away while this one works for a site; its own threads work side by side.

    Raises:
        BusyError: if another process works for it.
        StorageError: if the lock cannot be made.
    """
    place = site_folder.resolve() / NAME
    with _guard:
        lock = _held.get(place) or _taken(place)
        lock.holders += 1
        _held[place] = lock
    try:
        yield
    finally:
        with _guard:
            lock.holders -= 1
            if lock.holders == 0:
                _held.pop(place).file.close()


def is_working(site_folder: Path) -> bool:
    """Whether some process works for a site at this moment.

    Raises:
        OSError: if it cannot be told.
    """
    return file_lock.is_held(site_folder / NAME)


def _taken(place: Path) -> _Lock:
    try:
        return _Lock(file_lock.hold(place, wait=False))
    except BlockingIOError:
        raise BusyError(
            f"Another process works for the site in {place.parent}: `synofed site join` runs twice, or a check is on "
            f"its way"
        ) from None
    except OSError as error:
        raise StorageError(f"{place} cannot be locked: {error.strerror}") from None
