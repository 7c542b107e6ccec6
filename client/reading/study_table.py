"""A study's table of readings, as ``synofed readers`` takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from client.files import atomic
from client.reading import adjudication
from client.reading.progress import Progress
from client.reading.worklist import Listed
from common.errors import SynofedError
from common.text import csv_text

Grades = Mapping[str, int]
COLUMNS = (
    "exam_id", "patient_id", "reader", "session", "condition", "order", "seconds", "hidden_seconds", "time",
)  # fmt: skip
NAME = "readings.csv"


def write(progress: Progress, exams: Mapping[str, Listed], ensemble: Callable[[str], Grades] | None) -> Path:
    """Write ``readings.csv`` into a study's folder.

    Args:
        progress: the study.
        exams: id -> exam.
        ensemble: the ensemble's grades of an exam; ``None``: there is none.

    Returns:
        The file. Grades have a column per measurement, those of the ensemble ``ensemble_<m>``; the reference, where
        readers settled one, has ``truth_<m>`` and ``truth_by``.

    Raises:
        StorageError: if it cannot be written.
    """
    progress.refresh()
    names = tuple(progress.scheme.measurements)
    settled = adjudication.reference(progress)
    told = _ensemble(progress, ensemble)
    columns = [*COLUMNS, *names]
    columns += [f"ensemble_{name}" for name in names] if told else []
    columns += ["truth_by", *(f"truth_{name}" for name in names)] if settled else []
    rows = []
    for read in progress.reads:
        row: list[str | int | float] = [
            read.exam_id, exams[read.exam_id].patient_id if read.exam_id in exams else "", read.reader, read.session,
            read.condition, read.order, read.seconds, read.hidden_seconds, read.time,
        ]  # fmt: skip
        row += [read.grades[name] for name in names]
        row += [told.get(read.exam_id, {}).get(name, "") for name in names] if told else []
        by, truth = settled.get(read.exam_id, ("", {}))
        row += [by, *(truth.get(name, "") for name in names)] if settled else []
        rows.append(row)
    path = progress.folder / NAME
    atomic.write(path, csv_text.table(columns, rows).encode())
    return path


def _ensemble(progress: Progress, ensemble: Callable[[str], Grades] | None) -> dict[str, Grades]:
    """What the ensemble says of the exams that were read; an exam that it cannot grade has nothing."""
    found: dict[str, Grades] = {}
    if ensemble is None:
        return found
    for exam in dict.fromkeys(read.exam_id for read in progress.reads):
        try:
            found[exam] = ensemble(exam)
        except SynofedError:
            continue
    return found
