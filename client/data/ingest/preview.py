"""What a mapping makes of an export's first files; nothing is kept of them."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.ingest import scans
from client.data.ingest.importing import Import
from client.data.ingest.mapping import Fact
from client.data.ingest.mapping import Mapping as Meaning
from client.data.ingest.prepare import Scan
from client.data.ingest.pseudonyms import KEY_BYTES, Pseudonyms, read_persons
from common.errors import DataError

FIRST = 20
NAMED: tuple[Fact, ...] = ("patient_id", "visit", "time", "image")
COLUMNS = ("source", "panel", "file", *NAMED, "reason")
ASKED: tuple[Fact, ...] = ("visit", "side", "joint", "digit", "view", "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scan of a file, or a file without any; numbers stand for what identifies.

    Attributes:
        file: its number in the export, as in ``quarantine.csv``.
        panel: number of the scan on its screen; 0: all of it.
        image: ``gs`` or ``doppler``.
        patient: 1 for the first patient among these files.
        visit: 1 for the earliest date of this patient among these files.
        exam: 1 for the first exam; empty if it is in none.
        kept_by: what said which part of the screen is kept.
        not_told: facts without a source.
        reason: why it would be left out.
    """

    file: int
    panel: int
    image: str = ""
    patient: str = ""
    visit: str = ""
    side: str = ""
    joint: str = ""
    digit: str = ""
    view: str = ""
    device: str = ""
    exam: str = ""
    kept_by: str = ""
    not_told: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Rows for a screen, and the same with names and values for a file that stays at the site."""

    rows: tuple[Row, ...]
    named: tuple[tuple[str, ...], ...]


def preview(source: Path, meaning: Meaning, export: scans.Export) -> Preview:
    """Import the first files into a folder that is removed.

    Args:
        source: folder of the export.
        meaning: the mapping.
        export: its files.

    Raises:
        DataError: if a table of the mapping cannot be used.
    """
    first = scans.Export(pictures=export.pictures[:FIRST], aside=())
    digits = meaning.patient_id_digits
    persons = read_persons(meaning.patients, digits=digits) if meaning.patients else {}
    pseudonyms = Pseudonyms(key=secrets.token_bytes(KEY_BYTES), persons=persons, digits=digits)
    with tempfile.TemporaryDirectory() as building:
        run = Import(source, meaning, first, Path(building), pseudonyms)
        try:
            run.read(None)
        except DataError:
            if not run.refused:
                raise
    return Preview(rows=tuple(_rows(run)), named=tuple(_named(run)))


def _rows(run: Import) -> Iterator[Row]:
    reasons = {(each.source, each.panel): each.reason for each in run.refused}
    exam_of = {
        (each.source, each.panel): exam_id
        for exam_id, exam in run.exams.items()
        for each in exam.images.values()
    }
    exams = _numbers([exam_of[key] for key in sorted(exam_of)])
    patients = {key: run.pseudonyms.patient(scan.facts["patient_id"]) for key, scan in run.scans.items()}
    numbers = _numbers([patients[key] for key in sorted(patients)])
    days = {
        patient: _numbers(
            sorted(run.scans[key].facts["visit"] for key in patients if patients[key] == patient)
        )
        for patient in numbers
    }
    for key in sorted(run.scans.keys() | reasons.keys()):
        scan = run.scans.get(key)
        if scan is None:
            yield Row(file=key[0], panel=key[1], reason=reasons[key])
            continue
        facts = scan.facts
        yield Row(
            file=key[0],
            panel=key[1],
            image=facts["image"],
            patient=numbers[patients[key]],
            visit=days[patients[key]][facts["visit"]] if facts["visit"] else "",
            side=facts["side"],
            joint=facts["joint"],
            digit=facts["digit"],
            view=facts["view"],
            device=facts["device"],
            exam=exams.get(exam_of.get(key, ""), ""),
            kept_by=scan.by,
            not_told=_not_told(scan),
            reason=reasons.get(key, ""),
        )


def _not_told(scan: Scan) -> tuple[str, ...]:
    """Facts that no source told; a wrist has no digit."""
    whole = scan.facts["joint"] not in ("", "MCP", "PIP", "DIP", "MTP")
    return tuple(
        fact for fact in ASKED if scan.facts[fact] in ("", "unknown") and not (whole and fact == "digit")
    )


def _numbers(words: Sequence[str]) -> dict[str, str]:
    return {word: str(number) for number, word in enumerate(dict.fromkeys(filter(None, words)), start=1)}


def _named(run: Import) -> Iterator[tuple[str, ...]]:
    reasons = {(each.source, each.panel): each.reason for each in run.refused}
    for key in sorted(run.scans.keys() | reasons.keys()):
        scan = run.scans.get(key)
        facts = [scan.facts[fact] if scan else "" for fact in NAMED]
        yield (str(key[0]), str(key[1]), run.names[key[0]], *facts, reasons.get(key, ""))
