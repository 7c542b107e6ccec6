"""Patients who withdrew take no part in anything, whatever the tables say: their exams never enter the store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from client.data.tables.tables import Tables
from client.ledger import ledger, ledger_file, ledger_patients


def stamp(folder: Path) -> dict[str, list[int] | None]:
    """Size and time of change of a site's list, to notice that it changed; empty where nobody withdrew."""
    place = folder / ledger_file.FOLDER / ledger_patients.WITHDRAWN
    try:
        status = place.stat()
    except OSError:
        return {}
    return {str(place.relative_to(folder)): [status.st_size, status.st_mtime_ns]}


def among(folder: Path, names: Collection[str]) -> set[str]:
    """Those of some patients who withdrew.

    Raises:
        VerificationError: if the list is not as the ledger knows it.
    """
    if not (folder / ledger_file.NAME).exists() and not stamp(folder):
        return set()
    refused = ledger_patients.withdrawn(folder, ledger.book(folder))
    if not refused:
        return set()
    secret = ledger_file.site_secret(folder)
    return {name for name in names if ledger_patients.has_withdrawn(secret, refused, name)}


def without(folder: Path, tables: Tables) -> Tables:
    """A site's tables but for patients who withdrew.

    Raises:
        VerificationError: if the list is not as the ledger knows it: somebody who withdrew would be trained on.
    """
    gone = among(folder, {exam.patient_id for exam in tables.exams})
    exams = {exam.exam_id for exam in tables.exams if exam.patient_id in gone}
    if not exams:
        return tables
    return replace(
        tables,
        exams=tuple(exam for exam in tables.exams if exam.exam_id not in exams),
        readings=tuple(reading for reading in tables.readings if reading.exam_id not in exams),
        notes=(*tables.notes, f"{len(exams)} exams of {len(gone)} patients who withdrew are left out"),
    )
