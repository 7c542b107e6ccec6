"""Reads ``manifest.csv``: every error at once, with line, column, value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from client.data.tables.rows import read_rows, refuse, whole
from common.exam import SEXES, Exam, ImageRef, Roi
from common.settings import Settings

DESCRIPTIVE = (
    "visit", "side", "joint", "digit", "view", "device", "diagnosis", "age", "sex", "excluded", "split", "fold",
)  # fmt: skip
"""Columns that may stand beside ``exam_id``, ``patient_id`` and the images'."""
IMAGE_PARTS = ("_path", "_roi", "_mm_per_px", "_frames", "_frame_rate")
"""Of columns of an image."""
OLDEST = 130
REASONS = ("blur", "anisotropy", "aliasing", "motion", "bone not shown", "synovium not shown")
"""Why a picture is of little use (Zhou et al. 2022): words for ``excluded``, which may hold others."""
_NO_REASON = ("yes", "no", "y", "n", "true", "false", "0", "1", "x")
_SEXES = {sex.casefold(): sex for sex in SEXES} | {"female": "F", "male": "M", "o": "other"}
FASTEST_HZ = 1000


def read_manifest(folder: Path, path: Path, settings: Settings) -> tuple[list[Exam], tuple[str, ...]]:
    """Read a manifest.

    Args:
        folder: where the pictures' paths start.
        path: the manifest.
        settings: which images are needed.

    Returns:
        The exams, without targets, and the columns that nothing is known of.

    Raises:
        DataError: for a missing file or column, and for rows that cannot be used, all listed.
    """
    needed = ["exam_id", "patient_id", *(f"{image}_path" for image in settings.images)]
    table = read_rows(path, needed)
    errors: list[str] = []
    exams: list[Exam] = []
    root = folder.resolve()
    for line, row in table.rows:
        problems = list(_row_problems(root, row, settings))
        errors += [f"  line {line}: {problem}" for problem in problems]
        if not problems:
            exams.append(_exam(line, row, settings))
    refuse(path, [*errors, *_contradictions(exams)])
    known = {"exam_id", "patient_id", *DESCRIPTIVE}
    unknown = [c for c in table.columns if c not in known and not c.endswith(IMAGE_PARTS)]
    return exams, tuple(unknown)


def _row_problems(root: Path, row: Mapping[str, str], settings: Settings) -> Iterator[str]:
    for column in ("exam_id", "patient_id"):
        if not row[column]:
            yield f"{column} is empty, expected an identifier"
    if row.get("split", "") not in ("", "train", "test"):
        yield f"split is {row['split']!r}, expected train, test or nothing"
    fold = whole(row.get("fold", ""))
    if fold and not (fold.isdecimal() and int(fold) < settings.rating.folds):
        yield f"fold is {fold!r}, expected 0 to {settings.rating.folds - 1} or nothing"
    age = whole(row.get("age", ""))
    if age and not (age.isdecimal() and int(age) <= OLDEST):
        yield f"age is {age!r}, expected whole years, 0 to {OLDEST}, or nothing"
    if (sex := row.get("sex", "")) and sex.casefold() not in _SEXES:
        yield f"sex is {sex!r}, expected {', '.join(SEXES)} or nothing"
    if (excluded := row.get("excluded", "")).casefold() in _NO_REASON:
        yield f"excluded is {excluded!r}, expected a reason, such as {', '.join(REASONS)}, or nothing"
    for image in settings.images:
        yield from image_problems(root, image, row)


def image_problems(root: Path, image: str, row: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a path or an ROI; whether there is a picture is found out when it is read."""
    text = row[f"{image}_path"]
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or not text.isprintable():
        yield f"{image}_path is {text!r}, expected a path inside the data folder"
    elif not (root / path).resolve().is_relative_to(root):
        yield f"{image}_path is {text!r}, which leads out of the data folder"
    roi = row.get(f"{image}_roi", "")
    try:
        if roi:
            Roi.parse(roi)
    except ValueError as error:
        yield f"{image}_roi is {roi!r}, expected 'x y width height' in pixels: {error}"
    frames, rate = whole(row.get(f"{image}_frames", "")), row.get(f"{image}_frame_rate", "")
    if frames and not (frames.isdecimal() and int(frames) >= 1):
        yield f"{image}_frames is {frames!r}, expected how many frames the clip has, or nothing"
    if rate and not (re.fullmatch(r"\d{1,4}(\.\d{1,6})?", rate) and 0 < float(rate) <= FASTEST_HZ):
        yield f"{image}_frame_rate is {rate!r}, expected frames per second, up to {FASTEST_HZ}, or nothing"


def image_refs(row: Mapping[str, str], settings: Settings) -> dict[str, ImageRef]:
    """The images of a row that has no :func:`image_problems`."""
    return {
        name: ImageRef(
            path=row[f"{name}_path"],
            roi=Roi.parse(roi) if (roi := row.get(f"{name}_roi", "")) else None,
            kind="clip" if image.frames else "still",
            frames=int(frames) if (frames := whole(row.get(f"{name}_frames", ""))) else None,
            frame_rate=float(rate) if (rate := row.get(f"{name}_frame_rate", "")) else None,
        )
        for name, image in settings.images.items()
    }


def _exam(line: int, row: Mapping[str, str], settings: Settings) -> Exam:
    fold = whole(row.get("fold", ""))
    return Exam(
        line=line,
        exam_id=row["exam_id"],
        patient_id=row["patient_id"],
        images=image_refs(row, settings),
        device=row.get("device") or "unknown",
        diagnosis=row.get("diagnosis", ""),
        joint=row.get("joint", ""),
        age=int(age) if (age := whole(row.get("age", ""))) else None,
        sex=_SEXES.get(row.get("sex", "").casefold(), ""),
        excluded=row.get("excluded", ""),
        split=row.get("split", ""),
        fold=int(fold) if fold else None,
        targets={},
    )


def _contradictions(exams: Sequence[Exam]) -> Iterator[str]:
    first: dict[str, int] = {}
    patients: dict[str, Exam] = {}
    sexes: dict[str, Exam] = {}
    for exam in exams:
        if exam.exam_id in first:
            yield f"  line {exam.line}: exam_id {exam.exam_id!r} stands in line {first[exam.exam_id]} already"
        first.setdefault(exam.exam_id, exam.line)
        other = patients.setdefault(exam.patient_id, exam)
        if exam.sex and exam.sex != sexes.setdefault(exam.patient_id, exam).sex:
            line = sexes[exam.patient_id].line
            yield f"  line {exam.line}: sex is {exam.sex!r}, but another in line {line} for the same patient_id"
        for column in ("split", "fold"):
            mine, theirs = getattr(exam, column), getattr(other, column)
            if mine != theirs:
                yield (
                    f"  line {exam.line}: {column} is {mine!r}, but {theirs!r} in line {other.line} for the "
                    f"same patient_id: a patient is in one {column}"
                )
