"""``data ingest``: a hospital's export to a data folder of pseudonyms, whole or not at all.

The folder is built beside its place and renamed there. What undoes it (the key, the link file) and the contact
sheet, which shows names, lie in a private folder outside of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.data.ingest import placing, private_files, scans
from client.data.ingest.importing import QUARANTINE, Import, Progress, counted
from client.data.ingest.mapping import Mapping as Meaning
from client.data.ingest.pseudonyms import Pseudonyms, read_persons, site_key
from common.errors import DataError
from common.machine import atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What an import gave; counts alone, fit for a screen.

    Attributes:
        files: pictures read.
        other_files: files that are no pictures.
        exams: written.
        patients: of them.
        masked: kept pictures in which text was painted over.
        painted: mean share of a kept picture in which text was painted over, 0 to 1.
        painted_most: the largest.
        notes: what was guessed of pictures, to be read after "with" -> kept pictures.
        left_out: reason -> scans or files.
        readings: rows of ``grades.csv``; ``None``: there is no table of grades.
        grade_problems: reason -> rows of the hospital's table.
        ungraded: exams without any grade.
        look_alike_ids: groups of ids that differ in zeros, case or separators and are not linked.
        kept_by: what said which part of a screen is kept -> scans.
    """

    files: int
    other_files: int
    exams: int
    patients: int
    masked: int
    painted: float
    painted_most: float
    notes: Mapping[str, int]
    left_out: Mapping[str, int]
    readings: int | None
    grade_problems: Mapping[str, int]
    ungraded: int
    look_alike_ids: int
    kept_by: Mapping[str, int]


def ingest(
    source: Path,
    out: Path,
    meaning: Meaning,
    *,
    private: Path,
    replace: bool = False,
    progress: Progress | None = None,
) -> Ingested:
    """Import an export.

    Args:
        source: folder of the hospital's files; it is only read.
        out: the data folder to be made.
        meaning: the mapping.
        private: folder of key, link file and contact sheet, outside of ``out``.
        replace: whether a folder that is there is moved aside, as ``<out>.before-1``.
        progress: told of files done, out of all.

    Raises:
        DataError: if folders or tables cannot be used, or no exam comes of it; then nothing was written to
            ``out``, and what was left out stands in the private folder, in ``<out>-quarantine.csv`` and with
            names in ``<out>-problems.csv``.
    """
    placing.check(source, out, private, replace=replace)
    export = scans.find(source, films=meaning.keeps_clips, clip_folders=meaning.clips.folders)
    failed, problems = (private / f"{out.name}-{what}.csv" for what in ("quarantine", "problems"))
    with placing.private_folder(private), placing.building_folder(out) as building:
        digits = meaning.patient_id_digits
        persons = read_persons(meaning.patients, digits=digits) if meaning.patients else {}
        pseudonyms = Pseudonyms(key=site_key(private), persons=persons, digits=digits)
        run = Import(source, meaning, export, building, pseudonyms)
        try:
            run.read(progress)
            run.write()
        except DataError as error:
            atomic.write(failed, placing.table(QUARANTINE, run.quarantine()), mode=0o600)
            raise DataError(
                f"{error}\n  Why each file was left out: {failed}; their names: {problems}"
            ) from None
        finally:
            atomic.write(
                problems, placing.table(private_files.PROBLEMS, private_files.problems(run)), mode=0o600
            )
        links = placing.table(private_files.LINKS, private_files.links(run))
        atomic.write(private / f"{out.name}-links.csv", links, mode=0o600)
        atomic.write(private / f"{out.name}-contact-sheet.png", private_files.sheet(run), mode=0o600)
        shutil.rmtree(run.prep.target)
        placing.put(building, out)
        failed.unlink(missing_ok=True)  # of an earlier try
    return _summary(run)


def _summary(run: Import) -> Ingested:
    """What came of it, in counts."""
    grades = run.grades
    kept = [scan for exam in run.exams.values() for scan in run.scans_of(exam).values()]
    graded = {row.exam_id for row in grades.rows} if grades else set()
    return Ingested(
        files=len(run.names),
        other_files=sum(not each.picture for each in run.aside.values()),
        exams=len(run.exams),
        patients=len({exam.patient for exam in run.exams.values()}),
        masked=sum(bool(scan.masked) for scan in kept),
        painted=sum(scan.painted for scan in kept) / len(kept),
        painted_most=max(scan.painted for scan in kept),
        notes=counted(
            [
                *(note for scan in kept for note in scan.notes),
                *["files of one patient say two sexes: left empty"] * len(run.of_two_sexes),
            ]
        ),
        left_out=counted(
            [
                *(each.reason for each in run.refused),
                *(each.reason for each in run.aside.values() if each.picture),
            ]
        ),
        readings=len(grades.rows) if grades else None,
        grade_problems=counted(grades.problems.values()) if grades else {},
        ungraded=len(set(run.exams) - graded),
        look_alike_ids=len(run.look_alike_ids()),
        kept_by=counted(scan.by for scan in kept),
    )
