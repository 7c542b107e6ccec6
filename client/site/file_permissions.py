"""Whether other accounts of a shared machine can reach what is a site's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from client.site.site import Site

OTHERS = stat.S_IRWXG | stat.S_IRWXO
REACH = stat.S_IXGRP | stat.S_IXOTH
NAMED = 20
"""Paths that are named at most; a store has thousands."""


def check(folder: Path) -> tuple[str, ...]:
    """What other accounts can read or write, one sentence each that says what to do; empty: nothing.

    A folder that only its owner can enter protects all in it, except keys: they are checked one by one, for a copy
    or a backup of the folder may be more open than the folder.

    Args:
        folder: of the site.

    Raises:
        DataError: if there is no site.
        ConfigurationError: if ``site.toml`` cannot be used.
    """
    site = Site.open(folder)
    found = [*_open_keys(folder / "keys")]
    if not _closed(folder):
        found += _named(_open_paths(folder), folder)
    data = site.data_folder.resolve()
    if not data.is_relative_to(folder.resolve()) and not _closed(data) and _mode(data) & OTHERS:
        found.append(
            f"Other accounts can list or read the scans in {data}: chmod -R go-rwx {data}, unless they are meant to"
        )
    return tuple(found)


def _open_keys(keys: Path) -> Iterator[str]:
    for path in sorted(keys.glob("*")):
        public = path.suffix == ".pub"
        if path.is_file() and not public and _mode(path) & OTHERS:
            yield f"Other accounts may read the key {path}: chmod 600 {path}, and ask who has read it"


def _open_paths(folder: Path) -> list[Path]:
    """The outermost paths that others may open; what lies in a closed folder does not count."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        found += [here / name for name in sorted(files) if _mode(here / name) & OTHERS]
        closed = [name for name in folders if not _mode(here / name) & OTHERS]
        folders[:] = sorted(set(folders) - set(closed))
    return found


def _named(paths: list[Path], folder: Path) -> list[str]:
    if not paths:
        return []
    names = ", ".join(str(path.relative_to(folder)) for path in paths[:NAMED])
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return [f"Other accounts can read in {folder}: {names}{more}. Close it: chmod -R go-rwx {folder}"]


def _closed(folder: Path) -> bool:
    """Whether others cannot get into a folder, because of its mode or that of one above it."""
    return any(not _mode(place) & REACH for place in (folder.resolve(), *folder.resolve().parents))


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.lstat().st_mode) if not path.is_symlink() else 0
    except OSError:
        return 0
