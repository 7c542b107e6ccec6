"""``data ingest --dicomweb``: pictures of a hospital's archive in a folder of the site, for the import to read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from client.cli.cli_options import bar
from client.data.ingest import mapping as meanings
from client.data.ingest import placing, preview
from client.data.pacs import archive, wanted
from common.errors import ConfigurationError, DataError
from common.machine import atomic
from common.text.terminal import Console, Table

if TYPE_CHECKING:
    from client.data.pacs.fetch import Fetched
    from client.data.pacs.search import Instances, Studies

COLUMNS = ("id", "study", "series", "instance", "why it is missing")
Row = tuple[str, ...]
Pictures = tuple[Path, Mapping[str, int]]
"""A folder of them, and counts of the archive that they are from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the options of the command say.

    Attributes:
        url: of the archive's DICOMweb service.
        login: file of a login.
        ca: file of certificates to trust.
        plain_http: whether ``http://`` may lead to another machine.
        mapping: the mapping file.
        since: first day.
        until: last day.
        patients: table of ids.
        graded: whether only patients of the mapping's grades are wanted.
        modality: of the series.
        keep: whether what was fetched stays after the import.
        quiet: whether nothing is shown.
    """

    url: str
    login: Path | None
    ca: Path | None
    plain_http: bool
    mapping: Path | None
    since: date | None
    until: date | None
    patients: Path | None
    graded: bool
    modality: str
    keep: bool
    quiet: bool

    def archive(self) -> archive.Archive:
        """Where to fetch from."""
        return archive.archive(
            self.url, login=self.login, ca=self.ca, plain_http=self.plain_http, environment=os.environ
        )

    def wanted(self) -> wanted.Wanted:
        """What to fetch."""
        meaning = meanings.load(self.mapping)
        keys = wanted.listed(self.patients) if self.patients else ()
        if self.graded:
            if meaning.grades is None:
                raise ConfigurationError("Expected --mapping with [grades] beside --graded")
            keys += wanted.graded(meaning.grades)
        return wanted.Wanted(
            first=self.since,
            last=self.until,
            keys=keys,
            modality=self.modality,
            digits=meaning.patient_id_digits,
        ).check()


@contextmanager
def first(asked: Asked) -> Iterator[Pictures]:
    """The first few pictures in a folder that is removed.

    Raises:
        SynofedError: see :func:`whole`.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield _fetched(asked, Path(folder) / "first", most=preview.FIRST)[0]


@contextmanager
def whole(asked: Asked, *, out: Path, private: Path, replace: bool) -> Iterator[Pictures]:
    """All pictures in a private folder, which is removed when all went well; after an error it stays, to go on from.

    Args:
        asked: of the archive.
        out: where the import will go.
        private: folder of what undoes the import.
        replace: whether a folder that is there may be moved aside.

    Raises:
        ConfigurationError: if the archive cannot be used so.
        ConnectionLostError: if it is lost.
        DataError: if nothing is found, or something cannot be written.
    """
    folder, missing = private / f"{out.name}-fetched", private / f"{out.name}-not-fetched.csv"
    placing.check(folder, out, private, replace=replace)
    with placing.private_folder(private):
        pictures, rows = _fetched(asked, folder, most=None)
        atomic.write(missing, placing.table(COLUMNS, rows), mode=0o600)
    if rows:
        said = f"{len(rows)} ids or pictures did not come: {missing} names them."
        Console(quiet=asked.quiet).print(said, soft_wrap=True)
    yield pictures
    if not asked.keep:
        shutil.rmtree(folder)


def _fetched(asked: Asked, folder: Path, *, most: int | None) -> tuple[Pictures, list[Row]]:
    """The pictures, and what is missing."""
    try:
        from client.data.pacs import fetch, search  # noqa: PLC0415
        from client.data.pacs.reader import Reader  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Expected the package dicomweb-client, which is installed by choice: pip install 'synofed[dicomweb]'"
        ) from None
    wish, reader = asked.wanted(), Reader(asked.archive())
    with bar("searches", quiet=asked.quiet) as progress:
        studies = search.find_studies(reader, wish, progress)
    with bar("studies", quiet=asked.quiet) as progress:
        found = search.find_instances(reader, studies.uids, wish.modality, progress)
    counts = _counts(studies, found)
    Console(quiet=asked.quiet).print(_table(counts))
    if not found.each:
        raise DataError(
            "Expected pictures in the archive, found none that fit: look at --from, --to, --modality, the ids, and "
            "whether this login may see these studies"
        )
    with bar("fetched", quiet=asked.quiet) as progress:
        done = fetch.fetch(reader, found.each[:most], folder, progress)
    came = {"fetched": done.new, "fetched_before": done.there, "not_fetched": len(done.left_out)}
    return (folder, {**counts, **came}), list(_missing(studies, done))


def _counts(studies: Studies, found: Instances) -> dict[str, int]:
    return {
        "studies": found.studies,
        "series": found.series,
        "instances": len(found.each),
        "not_found": len(studies.missing),
        "not_asked_for": studies.strange + found.strange,
    }


def _table(counts: Mapping[str, int]) -> Table:
    table = Table(show_header=False, title="Found in the archive")
    table.add_column()
    table.add_column(justify="right")
    words = {"not_found": "ids without a study", "not_asked_for": "answers passed over, not asked for"}
    for name, count in counts.items():
        table.add_row(words.get(name, name), str(count))
    return table


def _missing(studies: Studies, done: Fetched) -> Iterator[Row]:
    for key in studies.missing:
        yield (" ".join(key.values()), "", "", "", "no study that fits was found")
    for each, reason in done.left_out.items():
        yield ("", each.study, each.series, each.uid, reason)
