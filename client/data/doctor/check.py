"""``data check``: goes over a data folder and lists all that is wrong at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from client.data.doctor import grade_checks, picture_checks
from client.data.doctor.findings import TITLES, Finding, Report
from client.data.doctor.link_checks import link_findings
from client.data.doctor.looks import Look, Place, look
from client.data.doctor.row_checks import row_findings
from client.data.ingest.placing import table
from client.data.tables.manifest import image_problems
from client.data.tables.rows import Table, read_rows
from client.site.site import Site
from common.errors import DataError, refusal
from common.exam import Roi
from common.machine import atomic

PATH = "_path"
DETAIL = ("check", "severity", "table", "line", "exam_id", "what")
Progress = Callable[[int, int], None]
Rows = Sequence[tuple[int, Mapping[str, str]]]


def check(folder: Path, *, progress: Progress | None = None) -> Report:
    """Check a folder.

    Args:
        folder: a data folder with ``manifest.csv``, or a site's folder, whose ``site.toml`` names it.
        progress: told of pictures done, out of all.

    Raises:
        DataError: if there is no manifest, or it lacks a column.
    """
    data, manifest_name, grades_name = _places(folder)
    manifest = read_rows(data / manifest_name, ["exam_id", "patient_id"])
    images = tuple(c.removesuffix(PATH) for c in manifest.columns if c.endswith(PATH) and c != PATH)
    if not images:
        raise DataError(f"Expected a column such as gs_path in {data / manifest_name}, got none")
    grades = _grades(data / grades_name)
    findings = list(row_findings(manifest.rows, images))
    places, bad = _pictures(data, manifest.rows, images)
    findings += bad
    looks: list[Look] = []
    for done, seen in enumerate(look(data, places), start=1):
        if isinstance(seen, Look):
            looks.append(seen)
        else:
            place, reason = seen
            findings.append(picture_checks.at(place, "missing", f"{place.image}: {reason}"))
        if progress is not None:
            progress(done, len(places))
    findings += grade_checks.findings(manifest.rows, grades)
    findings += link_findings(manifest.rows, grades)
    findings += picture_checks.findings(looks, flow=grade_checks.with_flow(grades))
    return Report(
        folder=data,
        exams=len(manifest.rows),
        patients=len({row["patient_id"] for _, row in manifest.rows}),
        pictures=len(looks),
        findings=tuple(sorted(findings, key=lambda finding: (finding.check, finding.line, finding.what))),
    )


def counts(report: Report) -> dict[str, object]:
    """The report in numbers, nothing of a row in it."""
    return {
        "folder": str(report.folder),
        "exams": report.exams,
        "patients": report.patients,
        "pictures": report.pictures,
        "problems": report.problems,
        "warnings": len(report.findings) - report.problems,
        "checks": {check: report.count(check) for check in TITLES},
    }


def write(report: Report, path: Path) -> None:
    """Write every finding, readable by its owner only.

    Raises:
        DataError: if the file cannot be written.
    """
    rows = [
        (f.check, "problem" if f.problem else "look", f.table, str(f.line or ""), f.exam_id, f.what)
        for f in report.findings
    ]
    try:
        atomic.write(path, table(DETAIL, rows), mode=0o600)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {refusal(error)}") from None


def _places(folder: Path) -> tuple[Path, str, str]:
    if (folder / "site.toml").exists():
        site = Site.open(folder)
        return site.data_folder, site.file.data.manifest, site.file.data.grades
    return folder, "manifest.csv", "grades.csv"


def _grades(path: Path) -> Table | None:
    return read_rows(path, ["exam_id", "reader"]) if path.exists() else None


def _pictures(data: Path, rows: Rows, images: Sequence[str]) -> tuple[list[Place], list[Finding]]:
    """The pictures that can be looked at, and what is wrong with the cells of others."""
    places: list[Place] = []
    bad: list[Finding] = []
    root = data.resolve()
    for line, row in rows:
        for image in images:
            place = Place(
                line=line,
                exam_id=row["exam_id"],
                patient_id=row["patient_id"],
                image=image,
                path=row[image + PATH],
                roi=None,
            )
            problems = list(image_problems(root, image, row))
            if not problems:
                roi = row.get(f"{image}_roi", "")
                places.append(replace(place, roi=Roi.parse(roi) if roi else None))
            elif not place.path:
                bad.append(picture_checks.at(place, "missing", f"{image}: no picture is named"))
            else:
                bad += [picture_checks.at(place, "rows", problem) for problem in problems]
    return places, bad
