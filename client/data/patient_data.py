"""Deletes a patient's pictures, rows and cached tensors; killed in the middle, the same call finishes it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from client.data.tables.spreadsheets import SEARCHED, Line, is_workbook, read_lines
from client.files import atomic
from client.site.site import Site
from client.state.decisions import ALONE, EVALUATING, PERSONAL
from common.errors import DataError, StorageError
from common.machine import file_lock

IDENTIFIERS = frozenset({"patient_id", "exam_id"})


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
        DataError: if the manifest cannot be read, or a table is a workbook, from which no row can be taken.
    """
    grades = site.data_folder / site.file.data.grades
    if grades.is_file():
        _lines(grades)
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
        campaigns = site.folder / "campaigns"
        for name in (f"*{PERSONAL}", ALONE, f".{ALONE}*/", EVALUATING):
            for made in campaigns.glob(f"*/{name}"):
                shutil.rmtree(made)  # of the patient; a draft, too
    except OSError as error:
        raise StorageError(
            f"A file of {site.name} cannot be deleted: {error.strerror}. Withdraw again; it goes on where it stopped"
        ) from None
    return left


def _clear_stores(folder: Path) -> None:
    """Remove everything that was derived from pictures; the site's secret and lock stay."""
    if not folder.exists():
        return
    with file_lock.hold(folder / file_lock.NAME):  # nobody builds meanwhile
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
    lines = _lines(table)
    start, header = _header(lines)
    exams = frozenset(found.exams)
    kept = [line.source for line in lines[:start]]
    for line in lines[start:]:
        row = dict(zip(header, line.cells, strict=False))
        if row.get("patient_id") != found.patient and row.get("exam_id") not in exams:
            kept.append(line.source)
    if len(kept) < len(lines):
        atomic.write(table, b"".join(kept), mode=table.stat().st_mode & 0o777)
    return bool(header)


def _rows(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    lines = _lines(table)
    start, header = _header(lines)
    if not header:
        raise DataError(f"Expected a header with patient_id in {table}")
    return header, [dict(zip(header, line.cells, strict=False)) for line in lines[start:]]


def _header(lines: Sequence[Line]) -> tuple[int, list[str]]:
    """Where rows begin, and their columns; none where no line names patients or exams."""
    for index, line in enumerate(lines[:SEARCHED]):
        if IDENTIFIERS & set(line.cells):
            return index + 1, list(line.cells)
    return 0, []


def _lines(table: Path) -> list[Line]:
    """The rows of a CSV file, each with its own bytes."""
    try:
        content = table.read_bytes()
        if is_workbook(content):
            raise DataError(
                "is a workbook, from which rows cannot be taken: save it as CSV, name that in site.toml, delete the "
                "workbook and withdraw again"
            )
        return read_lines(content, needed=sorted(IDENTIFIERS))
    except OSError as error:
        raise DataError(f"Expected a table at {table}: {error.strerror}") from None
    except DataError as error:
        raise DataError(f"{table} {error}") from None
