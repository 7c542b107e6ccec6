"""Deletes a patient's pictures, rows and cached tensors; killed in the middle, the same call finishes it."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from client import atomic
from client.site import Site
from common.errors import DataError, StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a site has of a patient.

    Attributes:
        patient: as in the manifest.
        exams: the patient's exams.
        pictures: their files, from the data folder; those of other patients too are left out.
    """

    patient: str
    exams: tuple[str, ...]
    pictures: tuple[str, ...]


def find(site: Site, patient: str) -> Found:
    """Look a patient up in the manifest.

    Raises:
        DataError: if the manifest cannot be read.
    """
    header, rows = _rows(site.data_folder / site.file.data.manifest)
    paths = [column for column in header if column.endswith("_path")]
    mine = [row for row in rows if row.get("patient_id") == patient]
    others = {row.get(column) for row in rows if row.get("patient_id") != patient for column in paths}
    pictures = {row[column] for row in mine for column in paths if row.get(column)} - others
    return Found(
        patient=patient,
        exams=tuple(row.get("exam_id", "") for row in mine),
        pictures=tuple(sorted(pictures)),
    )


def keep(place: Path, found: Found) -> None:
    """Note what is going to be deleted, before anything is.

    Raises:
        StorageError: if it cannot be written.
    """
    atomic.write(place, json.dumps(asdict(found)).encode())


def kept(place: Path) -> Found | None:
    """What a deletion that was cut short had found.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        content = json.loads(place.read_bytes())
        exams, pictures = tuple(content["exams"]), tuple(content["pictures"])
        return Found(patient=content["patient"], exams=exams, pictures=pictures)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"Expected a deletion's list in {place}: remove it and withdraw again") from None


def delete(site: Site, found: Found) -> tuple[str, ...]:
    """Delete the pictures, then the rows of every table, then all stores, which hold decoded pictures.

    Returns:
        Files beside the tables that are no tables of ours and seem to name the patient: somebody has to look.

    Raises:
        DataError: if the manifest or the grades cannot be read.
        StorageError: if something cannot be deleted; the same call again goes on.
    """
    root = site.data_folder.resolve()
    try:
        for name in found.pictures:
            place = root / name
            if place.resolve().is_relative_to(root):
                place.unlink(missing_ok=True)
        manifest = root / site.file.data.manifest
        grades = root / site.file.data.grades
        others = sorted(set(root.glob("*.csv")) - {manifest, grades})
        left = tuple(table.name for table in others if not _clean(table, found))
        for table in (grades, manifest):  # the manifest last: it says whose the exams are
            if table.is_file():
                _drop(table, found)
        _clear_stores(site.folder / "store")
    except OSError as error:
        raise StorageError(
            f"A file of {site.name} cannot be deleted: {error.strerror}. Withdraw again; it goes on where it stopped"
        ) from None
    return left


def _clear_stores(folder: Path) -> None:
    """Remove everything that was derived from pictures; the site's secret and lock stay."""
    if not folder.exists():
        return
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody builds meanwhile
        for place in folder.iterdir():
            if place.is_dir():
                shutil.rmtree(place)
        atomic.sync(folder)


def _clean(table: Path, found: Found) -> bool:
    """Drop a patient's rows from a table that may not be one of ours; ``False``: it names the patient still."""
    with contextlib.suppress(DataError):
        if _drop(table, found):
            return True
    content = table.read_bytes()
    return not any(name.encode() in content for name in (found.patient, *found.exams) if name)


def _drop(table: Path, found: Found) -> bool:
    """Rewrite a table without a patient's rows; all others stay as they are, letter by letter.

    Returns:
        Whether the table has a column of patients or exams.
    """
    kept, dropped, exams = [], 0, frozenset(found.exams)
    header: list[str] = []
    for cells, text in _records(table):
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if header and (row.get("patient_id") == found.patient or row.get("exam_id") in exams):
            dropped += 1
        else:
            kept.append(text)
        header = header or [cell.strip().removeprefix("\ufeff") for cell in cells]
    if dropped:
        atomic.write(table, "".join(kept).encode(), mode=table.stat().st_mode & 0o777)
    return bool({"patient_id", "exam_id"} & set(header))


def _rows(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    records = [[cell.strip() for cell in cells] for cells, _ in _records(table)]
    if not records:
        raise DataError(f"Expected a header in {table}")
    header = [records[0][0].removeprefix("\ufeff"), *records[0][1:]] if records[0] else []
    return header, [dict(zip(header, cells, strict=False)) for cells in records[1:]]


def _records(table: Path) -> Iterator[tuple[list[str], str]]:
    """The cells of each record, and its own text."""
    try:
        lines = list(io.StringIO(table.read_bytes().decode("utf-8"), newline=""))
        reader = csv.reader(lines)
        begin = 0
        for cells in reader:
            yield cells, "".join(lines[begin : reader.line_num])
            begin = reader.line_num
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Expected a table in UTF-8 at {table}: {error}") from None


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """One deletion at a time: two would write the same tables.

    Raises:
        StorageError: if there can be no lock.
    """
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = place.open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise StorageError(f"{place} cannot be locked: {error.strerror}") from None
    with lock:
        yield
