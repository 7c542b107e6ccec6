"""``data ingest``: a hospital's export to a data folder of pseudonyms, whole or not at all.

The folder is built beside its place and renamed there. What undoes it (the key, the link file) and the contact
sheet, which shows names, lie in a private folder outside of it.
"""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from client.ingest import contact_sheet, placing, scans
from client.ingest.file_rows import FileRows
from client.ingest.grades_table import Grades, read_grades
from client.ingest.identifiers import look_alikes
from client.ingest.mapping import Mapping as Meaning
from client.ingest.mapping import VisitSection
from client.ingest.pairing import Candidate, Paired, pair
from client.ingest.pictures import decode
from client.ingest.prepare import Preparation, Refused, Scan, prepare, refused_parts, with_roi
from client.ingest.pseudonyms import Pseudonyms, read_persons, site_key, write_private
from client.ingest.spreadsheets import read_table
from common.errors import DataError

AT_ONCE = 64
SHOWN_A_KIND, MOST_SHOWN = 3, 60
"""Screens of each machine and size on the contact sheet, and in all."""
MANIFEST = (
    "exam_id", "patient_id", "visit", "side", "joint", "digit", "view", "device", "diagnosis", "split",
)  # fmt: skip
RECORD = (
    "path", "exam_id", "image", "source", "kept", "kept_by", "encoding", "masked", "sop_uid", "series_uid",
)  # fmt: skip
DETAIL = (
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
Progress = Callable[[int, int], None]
Key = tuple[int, int]
"""Source and panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What an import gave; counts alone, fit for a screen.

    Attributes:
        files: pictures read.
        other_files: files that are no pictures.
        exams: written.
        patients: of them.
        masked: kept pictures in which text was painted over.
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
            ``out``.
    """
    placing.check(source, out, private, replace=replace)
    names, others = scans.find(source)
    with placing.private_folder(private), placing.building_folder(out) as building:
        pseudonyms = Pseudonyms(
            key=site_key(private), persons=read_persons(meaning.patients) if meaning.patients else {}
        )
        run = _Import(source, meaning, names, building, pseudonyms)
        run.read(progress)
        grades = run.write()
        write_private(private / f"{out.name}-links.csv", placing.table(DETAIL, run.details()))
        problems = run.private_problems(grades)
        write_private(private / f"{out.name}-problems.csv", placing.table(("where", "what"), problems))
        write_private(private / f"{out.name}-contact-sheet.png", run.sheet())
        shutil.rmtree(run.prep.target)
        placing.put(building, out)
    return run.summary(grades, others)


class _Import:
    """One import on its way: scans, exams, what is left out."""

    def __init__(
        self, source: Path, meaning: Meaning, names: Sequence[str], building: Path, pseudonyms: Pseudonyms
    ) -> None:
        self.source, self.meaning, self.building, self.pseudonyms = source, meaning, building, pseudonyms
        self.names = dict(enumerate(names, start=1))
        table, roi = meaning.table, meaning.roi.table
        self.prep = Preparation(
            folder=source,
            meaning=meaning,
            list_rows=FileRows(
                read_table(table.path, needed=[table.file, *_columns(meaning)], sheet=table.sheet),
                table.file,
                names,
            )
            if table
            else None,
            roi_rows=FileRows(read_table(roi, needed=("file", "x", "y", "width", "height")), "file", names)
            if roi
            else None,
            target=building / ".scans",
        )
        self.scans: dict[Key, Scan] = {}
        self.refused: list[Refused] = []
        self.exams: dict[str, Paired] = {}
        self._first: dict[tuple[str, str, str], int] = {}

    def read(self, progress: Progress | None) -> None:
        """Prepare every file, then make exams of the scans."""
        self.prep.target.mkdir()
        items = list(self.names.items())
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for start in range(0, len(items), AT_ONCE):
                part = items[start : start + AT_ONCE]
                for results in pool.map(lambda item: prepare(self.prep, *item), part):
                    self.refused += refused_parts(results)
                    for scan in results:
                        if isinstance(scan, Scan):
                            self._keep(scan)
                    if progress is not None:
                        progress(min(start + AT_ONCE, len(items)), len(items))
        paired, left = pair([self._candidate(scan) for scan in self.scans.values()], self.meaning.pair)
        for each in left:
            self.refused.append(
                Refused(source=each.candidate.source, panel=each.candidate.panel, reason=each.reason)
            )
        for exam in paired:
            self.exams[self.pseudonyms.exam(exam.patient, exam.parts)] = exam
        self.exams = dict(sorted(self.exams.items(), key=lambda item: (item[1].patient, item[0])))
        if not self.exams:
            raise DataError(_nothing(self.refused, self.source))

    def write(self) -> Grades | None:
        """Write pictures and tables into the folder that is being built."""
        (self.building / "images").mkdir()
        images = self.meaning.pair.images
        rows, pictures = [], []
        for exam_id, exam in self.exams.items():
            mine = self._scans(exam)
            cells = [self._cell(exam, exam_id, column) for column in MANIFEST]
            for image in images:
                path = f"images/{exam_id}_{image}.png"
                scan = mine[image]
                shutil.copyfile(self.prep.scan_path(scan.source, scan.panel), self.building / path)
                roi = scan.roi
                cells += [path, f"{roi.x} {roi.y} {roi.width} {roi.height}" if roi else ""]
                pictures.append(self._record(path, exam_id, image, scan))
            rows.append(cells)
        columns = (*MANIFEST, *(f"{image}_{part}" for image in images for part in ("path", "roi")))
        self._table("manifest.csv", columns, rows)
        self._table("pictures.csv", RECORD, pictures)
        self._table(
            "quarantine.csv",
            ("source", "panel", "reason"),
            sorted([str(each.source), str(each.panel), each.reason] for each in self.refused),
        )
        if self.meaning.grades is None:
            return None
        grades = read_grades(
            self.meaning, self.meaning.grades, exams=self.exams, files=self.names, pseudonyms=self.pseudonyms
        )
        self._table(
            "grades.csv",
            ("exam_id", "reader", "session", *grades.measurements),
            sorted([row.exam_id, row.reader, row.session, *row.grades] for row in grades.rows),
        )
        if not grades.rows:
            raise DataError(
                f"Expected grades of the exams in {self.meaning.grades.path}, none of its rows could be used: "
                + "; ".join(f"{count} x {what}" for what, count in _counted(grades.problems.values()).items())
            )
        return grades

    def details(self) -> Iterator[list[str]]:
        """The link file: what became of each file, original and new."""
        exam_of = {
            (each.source, each.panel): exam_id
            for exam_id, exam in self.exams.items()
            for each in exam.images.values()
        }
        for key, scan in sorted(self.scans.items()):
            patient = scan.facts["patient_id"]
            yield [
                str(scan.source), str(scan.panel), self.names[scan.source], scan.uid,
                self.pseudonyms.uid(scan.uid), patient, self.pseudonyms.patient(patient),
                exam_of.get(key, ""), scan.facts["image"], self._reason(key),
            ]  # fmt: skip
        for each in self.refused:
            if (each.source, each.panel) not in self.scans:
                yield [
                    str(each.source), str(each.panel), self.names[each.source], *[""] * 6, each.reason,
                ]  # fmt: skip

    def private_problems(self, grades: Grades | None) -> Iterator[list[str]]:
        """What deserves a look, in the hospital's own words."""
        for group in self._look_alikes():
            yield ["ids that look alike", " | ".join(group)]
        for line, reason in sorted(grades.problems.items() if grades else ()):
            yield [f"grades line {line}", reason]

    def sheet(self) -> bytes:
        """A few screens of each machine and size."""
        chosen: dict[tuple[str, str, int, int], list[int]] = {}
        for scan in self.scans.values():
            sources = chosen.setdefault((scan.facts["device"], scan.by, *scan.size), [])
            if len(sources) < SHOWN_A_KIND and scan.source not in sources:
                sources.append(scan.source)
        wanted = sorted({source for sources in chosen.values() for source in sources})[:MOST_SHOWN]
        sheet = io.BytesIO()
        contact_sheet.draw([self._screen(source) for source in wanted]).save(sheet, "PNG")
        return sheet.getvalue()

    def summary(self, grades: Grades | None, others: int) -> Ingested:
        """What came of it, in counts."""
        kept = [scan for exam in self.exams.values() for scan in self._scans(exam).values()]
        graded = {row.exam_id for row in grades.rows} if grades else set()
        return Ingested(
            files=len(self.names),
            other_files=others,
            exams=len(self.exams),
            patients=len({exam.patient for exam in self.exams.values()}),
            masked=sum(bool(scan.masked) for scan in kept),
            left_out=_counted(each.reason for each in self.refused),
            readings=len(grades.rows) if grades else None,
            grade_problems=_counted(grades.problems.values()) if grades else {},
            ungraded=len(set(self.exams) - graded),
            look_alike_ids=len(self._look_alikes()),
            kept_by=_counted(scan.by for scan in kept),
        )

    def _keep(self, scan: Scan) -> None:
        """Take a scan; one that was exported twice is taken once."""
        patient = self.pseudonyms.patient(scan.facts["patient_id"])
        first = self._first.setdefault((patient, scan.facts["image"], scan.digest), scan.source)
        if first == scan.source:
            self.scans[scan.source, scan.panel] = scan
        else:
            reason = "the same picture as an earlier file"
            self.refused.append(Refused(source=scan.source, panel=scan.panel, reason=reason))

    def _candidate(self, scan: Scan) -> Candidate:
        patient = self.pseudonyms.patient(scan.facts["patient_id"])
        return Candidate(source=scan.source, panel=scan.panel, facts=scan.facts, patient=patient)

    def _scans(self, exam: Paired) -> dict[str, Scan]:
        mine = {image: self.scans[each.source, each.panel] for image, each in exam.images.items()}
        return with_roi(mine, self.meaning.roi.rule)

    def _cell(self, exam: Paired, exam_id: str, column: str) -> str:
        match column:
            case "exam_id":
                return exam_id
            case "patient_id":
                return exam.patient
            case "visit":
                patient_id = next(iter(exam.images.values())).facts["patient_id"]
                return _visit(exam.fact("visit"), patient_id, self.meaning.visit, self.pseudonyms)
            case "side" | "joint" | "digit" | "view" | "device" | "diagnosis" | "split":
                return exam.fact(column)
        raise AssertionError(column)

    def _record(self, path: str, exam_id: str, image: str, scan: Scan) -> list[str]:
        box = scan.box
        return [
            path, exam_id, image, str(scan.source), f"{box.x} {box.y} {box.width} {box.height}", scan.by,
            scan.kind, str(len(scan.masked)), self.pseudonyms.uid(scan.uid),
            self.pseudonyms.uid(scan.facts["series"]),
        ]  # fmt: skip

    def _reason(self, key: Key) -> str:
        return next((each.reason for each in self.refused if (each.source, each.panel) == key), "")

    def _look_alikes(self) -> list[tuple[str, ...]]:
        """Ids that look alike and have different pseudonyms."""
        ids = {scan.facts["patient_id"] for scan in self.scans.values()}
        return [g for g in look_alikes(ids) if len({self.pseudonyms.patient(one) for one in g}) > 1]

    def _screen(self, source: int) -> contact_sheet.Screen:
        mine = [scan for key, scan in sorted(self.scans.items()) if key[0] == source]
        return contact_sheet.Screen(
            rgb=scans.read(self.source / self.names[source], frame=self.meaning.frame).rgb,
            title=f"source {source}: {mine[0].facts['device']}, {mine[0].by}",
            parts=tuple(
                contact_sheet.Part(
                    box=scan.box,
                    roi=with_roi({"": scan}, self.meaning.roi.rule)[""].roi,
                    masked=scan.masked,
                    result=np.asarray(
                        decode(self.prep.scan_path(*key).read_bytes(), mode="RGB"), dtype=np.uint8
                    ),
                    title=f"{scan.facts['image']}, masked {len(scan.masked)}",
                )
                for scan in mine
                for key in [(scan.source, scan.panel)]
            ),
        )

    def _table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        (self.building / name).write_bytes(placing.table(columns, rows))


def _columns(meaning: Meaning) -> list[str]:
    """Columns of the list of files that facts come from."""
    sources = [s if isinstance(s, str) else s.of for each in meaning.facts.values() for s in each]
    return [s.removeprefix("table:") for s in sources if s.startswith("table:")]


def _visit(text: str, patient_id: str, section: VisitSection, pseudonyms: Pseudonyms) -> str:
    if not text or section.dates == "none":
        return ""
    if section.dates == "kept":
        return text
    return pseudonyms.shifted(date.fromisoformat(text), patient_id).isoformat()


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    return dict(Counter(reasons).most_common())


def _nothing(refused: Sequence[Refused], source: Path) -> str:
    reasons = "\n".join(f"  {n} x {reason}" for reason, n in _counted([e.reason for e in refused]).items())
    return f"Expected exams in {source}, none could be made; nothing was imported:\n{reasons}"
