"""Fetches instances of an archive into a folder; what is there already is not fetched again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.pacs.reader import Reader
from client.data.pacs.search import Instance, Progress
from common.errors import DataError
from common.machine import atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of it.

    Attributes:
        new: instances that were fetched now.
        there: that an earlier try had fetched.
        left_out: instance -> why the archive did not give it.
    """

    new: int
    there: int
    left_out: Mapping[Instance, str]


def fetch(reader: Reader, instances: Sequence[Instance], folder: Path, progress: Progress) -> Fetched:
    """Make a folder hold these instances and nothing else. Each file is whole or absent, whatever happens.

    Args:
        reader: of the archive.
        instances: that are wanted.
        folder: of this use alone, made for its owner only; what else is in it is removed.
        progress: told of instances done, out of all.

    Raises:
        ConfigurationError: if the archive cannot be used so.
        ConnectionLostError: if it is lost; what was fetched stays.
        DataError: if it gave none of them.
        OSError: if something cannot be written.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    places = {folder / each.name: each for each in instances}
    _clear(folder, places.keys())
    there = sum(place.is_file() for place in places)
    left_out: dict[Instance, str] = {}
    for done, (place, each) in enumerate(places.items(), start=1):
        if not place.is_file():
            try:
                content = reader.instance(each.study, each.series, each.uid)
            except DataError as error:
                left_out[each] = str(error)
            else:
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                atomic.write(place, content, mode=0o600)
        progress(done, len(places))
    if len(left_out) == len(places):
        raise DataError(
            f"Expected pictures from the archive, it gave none of {len(places)}: {next(iter(left_out.values()))}"
        )
    return Fetched(new=len(places) - there - len(left_out), there=there, left_out=left_out)


def _clear(folder: Path, wanted: Collection[Path]) -> None:
    """Remove what another search had found, and what an interrupted write left."""
    for path in folder.rglob("*"):
        if path not in wanted and (path.is_symlink() or not path.is_dir()):
            path.unlink()
