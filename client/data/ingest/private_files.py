"""What of an import stays in the private folder: links, problems in the hospital's words, the contact sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from client.data.ingest import scans
from client.data.ingest.importing import Import
from client.data.ingest.prepare import with_roi
from client.data.pictures import contact_sheet
from client.data.pictures.decoder import decode

SHOWN_A_KIND, MOST_SHOWN = 3, 60
"""Screens of each machine and size on the contact sheet, and in all."""
LINKS = (
    "source",
    "panel",
    "file",
    "sop_uid",
    "new_uid",
    "patient_id",
    "patient",
    "exam_id",
    "image",
    "reason",
)
PROBLEMS = ("where", "what")


def links(run: Import) -> Iterator[list[str]]:
    """The link file: what became of each file, original and new."""
    exam_of = {
        (each.source, each.panel): exam_id
        for exam_id, exam in run.exams.items()
        for each in exam.images.values()
    }
    reasons = {(each.source, each.panel): each.reason for each in run.refused}
    for key, scan in sorted(run.scans.items()):
        patient = scan.facts["patient_id"]
        yield [
            str(scan.source), str(scan.panel), run.names[scan.source], scan.uid,
            run.pseudonyms.uid(scan.uid), patient, run.pseudonyms.patient(patient),
            exam_of.get(key, ""), scan.facts["image"], reasons.get(key, ""),
        ]  # fmt: skip
    for source, panel, reason in run.quarantine():
        if (int(source), int(panel)) not in run.scans:
            yield [source, panel, _name(run, int(source)), *[""] * 6, reason]


def problems(run: Import) -> Iterator[list[str]]:
    """What deserves a look, in the hospital's own words: ids, files left out or read by a guess, rows of grades."""
    for group in run.look_alike_ids():
        yield ["ids that look alike", " | ".join(group)]
    for source, panel, reason in run.quarantine():
        part = f", part {panel}" if panel != "0" else ""
        yield [f"file {_name(run, int(source))}{part}", f"left out: {reason}"]
    for scan in run.scans.values():
        for note in scan.notes:
            yield [f"file {run.names[scan.source]}", f"with {note}"]
    for line, reason in sorted(run.grades.problems.items() if run.grades else ()):
        yield [f"grades line {line}", reason]


def _name(run: Import, source: int) -> str:
    return run.names[source] if source in run.names else run.aside[source].name


def sheet(run: Import) -> bytes:
    """A few screens of each machine and size, those first of which most is painted over."""
    chosen: dict[tuple[str, str, int, int], list[int]] = {}
    for scan in sorted(run.scans.values(), key=lambda scan: -scan.painted):
        sources = chosen.setdefault((scan.facts["device"], scan.by, *scan.size), [])
        if len(sources) < SHOWN_A_KIND and scan.source not in sources:
            sources.append(scan.source)
    wanted = sorted({source for sources in chosen.values() for source in sources})[:MOST_SHOWN]
    sheet = io.BytesIO()
    contact_sheet.draw([_screen(run, source) for source in wanted]).save(sheet, "PNG")
    return sheet.getvalue()


def _screen(run: Import, source: int) -> contact_sheet.Screen:
    mine = [scan for key, scan in sorted(run.scans.items()) if key[0] == source]
    return contact_sheet.Screen(
        rgb=scans.read(
            run.source / run.names[source], frame=run.meaning.frame, moving=run.meaning.keeps_clips
        ).rgb,
        title=f"source {source}: {mine[0].facts['device']}, {mine[0].by}",
        parts=tuple(
            contact_sheet.Part(
                box=scan.box,
                roi=with_roi({"": scan}, run.meaning.roi.rule)[""].roi,
                masked=scan.masked,
                result=np.asarray(decode(run.prep.scan_path(scan).read_bytes(), mode="RGB").image),
                title=f"{scan.facts['image']}, masked {len(scan.masked)}, painted over {scan.painted:.1%}",
            )
            for scan in mine
        ),
    )
