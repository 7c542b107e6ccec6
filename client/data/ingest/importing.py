"""An import on its way: files to scans, scans to exams, exams to the tables and pictures of a data folder."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from client.data.ingest import placing, scans
from client.data.ingest.grades_table import Grades, read_grades
from client.data.ingest.mapping import CLIP, VisitSection
from client.data.ingest.mapping import Mapping as Meaning
from client.data.ingest.pairing import Candidate, Paired, pair
from client.data.ingest.prepare import Preparation, Refused, Scan, prepare, refused_parts, with_roi
from client.data.ingest.pseudonyms import Pseudonyms
from client.data.tables.file_rows import FileRows
from client.data.tables.rows import Table, read_table, refuse_faults
from client.ledger.identifiers import look_alikes
from common.errors import DataError

AT_ONCE = 64
MANIFEST = (
    "exam_id", "patient_id", "visit", "side", "joint", "digit", "view", "device", "diagnosis", "split",
)  # fmt: skip
TOLD = ("age", "sex")
"""Columns that there are where the mapping has a source of them."""
RECORD = (
    "path", "exam_id", "image", "source", "kept", "kept_by", "encoding", "masked", "painted", "sop_uid", "series_uid",
)  # fmt: skip
QUARANTINE = ("source", "panel", "reason")
Progress = Callable[[int, int], None]
Key = tuple[int, int]
"""Source and panel."""


class Import:
    """One import on its way: scans, exams, what is left out."""

    def __init__(
        self, source: Path, meaning: Meaning, export: scans.Export, building: Path, pseudonyms: Pseudonyms
    ) -> None:
        """Read the hospital's tables.

        Args:
            source: folder of the export.
            meaning: the mapping.
            export: its files; sources are numbered in this order, from 1, pictures first.
            building: the folder that is being built.
            pseudonyms: of the site.

        Raises:
            DataError: if a table cannot be used.
        """
        self.source, self.meaning, self.building, self.pseudonyms = source, meaning, building, pseudonyms
        names = export.pictures
        self.names = dict(enumerate(names, start=1))
        self.aside = dict(enumerate(export.aside, start=len(names) + 1))
        table, roi = meaning.table, meaning.roi.table
        self.prep = Preparation(
            folder=source,
            meaning=meaning,
            list_rows=FileRows(
                _list(
                    table.path,
                    [table.file, *_columns(meaning)],
                    sheet=table.sheet,
                    header_row=table.header_row,
                ),
                table.file,
                names,
            )
            if table
            else None,
            roi_rows=FileRows(_list(roi, ["file", "x", "y", "width", "height"]), "file", names)
            if roi
            else None,
            target=building / ".scans",
        )
        self.scans: dict[Key, Scan] = {}
        self.refused: list[Refused] = []
        self.exams: dict[str, Paired] = {}
        self.grades: Grades | None = None
        self.told = tuple(column for column in TOLD if column in meaning.facts)
        self.of_two_sexes: frozenset[str] = frozenset()
        """Patients whose files contradict each other: then it is not known."""
        self._first: dict[tuple[str, str, str], int] = {}

    def read(self, progress: Progress | None) -> None:
        """Prepare every file, then make exams of the scans.

        Raises:
            DataError: if no exam comes of it.
        """
        if not self.names:
            raise DataError(
                f"Expected DICOM, PNG, JPEG or TIFF files under {self.source}, got {len(self.aside)} of other kinds"
                + self._reasons()
            )
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
            raise DataError(self._nothing())

    def _spacing(self) -> tuple[str, ...]:
        """The column of the pictures' scale, where a file tells of one."""
        scans = (scan for exam in self.exams.values() for scan in self.scans_of(exam).values())
        return ("mm_per_px",) if any(scan.mm_per_px for scan in scans) else ()

    def write(self) -> Grades | None:
        """Write pictures and tables into the folder that is being built.

        Raises:
            DataError: if the table of grades cannot be used.
        """
        (self.building / "images").mkdir()
        images = self.meaning.pair.images
        parts = ("path", "roi", *self._spacing())
        rows, pictures = [], []
        self.of_two_sexes = self._of_two_sexes()
        for exam_id, exam in self.exams.items():
            mine = self.scans_of(exam)
            cells = [self._cell(exam, exam_id, column) for column in (*MANIFEST, *self.told)]
            for image in images:
                scan = mine[image]
                path = f"images/{exam_id}_{image}{scan.suffix}"
                shutil.copyfile(self.prep.scan_path(scan), self.building / path)
                roi = scan.roi
                cells += [path, roi.text if roi else ""]
                cells += [f"{scan.mm_per_px:g}" if scan.mm_per_px else ""] * (len(parts) - 2)
                if image.endswith(CLIP):
                    cells += [str(scan.frames), f"{scan.frame_rate:.3f}" if scan.frame_rate else ""]
                pictures.append(self._record(path, exam_id, image, scan))
            rows.append(cells)
        of_clips = ("frames", "frame_rate")
        columns = (
            *MANIFEST,
            *self.told,
            *(
                f"{image}_{part}"
                for image in images
                for part in (*parts, *(of_clips if image.endswith(CLIP) else ()))
            ),
        )
        self._table("manifest.csv", columns, rows)
        self._table("pictures.csv", RECORD, pictures)
        self._table("quarantine.csv", QUARANTINE, self.quarantine())
        if self.meaning.grades is None:
            return None
        grades = read_grades(
            self.meaning, self.meaning.grades, exams=self.exams, files=self.names, pseudonyms=self.pseudonyms
        )
        self.grades = grades
        self._table(
            "grades.csv",
            ("exam_id", "reader", "session", *grades.measurements),
            sorted([row.exam_id, row.reader, row.session, *row.grades] for row in grades.rows),
        )
        if not grades.rows:
            raise DataError(
                f"Expected grades of the exams in {self.meaning.grades.path}, none of its rows could be used: "
                + "; ".join(f"{count} x {what}" for what, count in counted(grades.problems.values()).items())
            )
        return grades

    def quarantine(self) -> list[tuple[str, str, str]]:
        """Every file and part of a screen that is left out, and why: rows of ``quarantine.csv``."""
        left = {(each.source, each.panel): each.reason for each in self.refused}
        left |= {(source, 0): each.reason for source, each in self.aside.items()}
        return [(str(source), str(panel), reason) for (source, panel), reason in sorted(left.items())]

    def _nothing(self) -> str:
        return f"Expected exams in {self.source}, none could be made; nothing was imported:{self._reasons()}"

    def _reasons(self) -> str:
        reasons = counted(reason for _, _, reason in self.quarantine())
        return "".join(f"\n  {count} x {reason}" for reason, count in reasons.items())

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

    def scans_of(self, exam: Paired) -> dict[str, Scan]:
        """The scans of an exam with their ROIs, by image."""
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
            case "sex":
                return "" if exam.patient in self.of_two_sexes else exam.fact("sex")
            case "side" | "joint" | "digit" | "view" | "device" | "diagnosis" | "age" | "split":
                return exam.fact(column)
        raise AssertionError(column)

    def _of_two_sexes(self) -> frozenset[str]:
        known: dict[str, set[str]] = {}
        for exam in self.exams.values():
            said = (each.facts["sex"] for each in exam.images.values())
            known.setdefault(exam.patient, set()).update(filter(None, said))
        return frozenset(patient for patient, said in known.items() if len(said) > 1)

    def _record(self, path: str, exam_id: str, image: str, scan: Scan) -> list[str]:
        box = scan.box
        return [
            path, exam_id, image, str(scan.source), f"{box.x} {box.y} {box.width} {box.height}", scan.by,
            scan.kind, str(len(scan.masked)), f"{scan.painted:.4f}", self.pseudonyms.uid(scan.uid),
            self.pseudonyms.uid(scan.facts["series"]),
        ]  # fmt: skip

    def look_alike_ids(self) -> list[tuple[str, ...]]:
        """Ids, of scans and of the link table, that look alike and have different pseudonyms."""
        ids = {scan.facts["patient_id"] for scan in self.scans.values()}
        groups = (g for g in look_alikes(ids | set(self.pseudonyms.persons)) if ids & set(g))
        return [g for g in groups if len({self.pseudonyms.patient(one) for one in g}) > 1]

    def _table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        (self.building / name).write_bytes(placing.table(columns, rows))


def _list(path: Path, needed: Sequence[str], *, sheet: str = "", header_row: int = 0) -> Table:
    """A list of the hospital's that tells of files; what it says of any must be readable."""
    table = read_table(path, needed, sheet=sheet, header_row=header_row)
    refuse_faults(path, table)
    return table


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


def counted(reasons: Iterable[str]) -> dict[str, int]:
    """Reason -> how often, the most frequent first."""
    return dict(Counter(reasons).most_common())
