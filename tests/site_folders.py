"""A factory of tiny site folders: random pictures, valid tables, a permissive policy."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.settings import Settings, parse

PUZZLES = """\
pretraining = "jigsaw"
[rating.jigsaw]
image_px = 48
tile_px = 12
permutations = 6
rounds = 1
"""
"""For the text of :func:`make_settings`: a plan whose first network learns without grades."""
SITE_TOML = """\
name = "{name}"

[data]
consensus = "{consensus}"

[policy]
allow_unprotected = true
approval = "automatic"
methods = ["*"]
code = ["*"]
metrics = ["counts", "losses", "score_histograms"]
minimum_cohort = 1
maximum_update_bytes = 100_000_000_000
keep_outbox_days = 0
"""


def make_site_folder(
    path: Path,
    *,
    name: str = "site-a",
    patients: int = 10,
    exams_per_patient: int = 3,
    seed: int = 0,
    images: Sequence[str] = ("gs", "doppler"),
    measurements: Sequence[str] = ("hypertrophy", "vascularity"),
    grades: int = 4,
    readers: int = 1,
    devices: Sequence[str] = ("Resona 7",),
    held_out_patients: int | None = None,
    size_px: tuple[int, int] = (48, 40),
    roi: str | None = "6 4 30 28",
    suffix: str = ".png",
    consensus: str = "median",
    extra: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a valid site folder whose pictures get brighter, and redder for Doppler, with the grade.

    Args:
        path: folder to be made.
        name: of the site.
        patients: number of patients.
        exams_per_patient: joint exams of each.
        seed: of pictures and grades.
        images: columns of images; one named ``doppler`` is in colour, the others are grey.
        measurements: graded columns; with hypertrophy and vascularity only valid pairs occur.
        grades: grades of each measurement.
        readers: readers who agree, but for the last, who is one lower where that gives a valid pair.
        devices: given to patients in turn.
        held_out_patients: the last so many get split ``test``, the others ``train``; ``None``: no column.
        size_px: width and height of a picture.
        roi: the ROI of every picture; ``None``: no such column.
        suffix: of the pictures' files.
        consensus: rule written into ``site.toml``.
        extra: further columns of the manifest, one value per exam.

    Returns:
        ``path``.
    """
    rng = np.random.default_rng(seed)
    (path / "images").mkdir(parents=True)
    toml = SITE_TOML.format(name=name, consensus=consensus)
    (path / "site.toml").write_text(toml, encoding="utf-8")
    manifest: list[dict[str, str]] = []
    readings: list[dict[str, str]] = []
    for patient in range(patients):
        for index in range(exams_per_patient):
            exam = f"{name}-p{patient:03d}-e{index}"
            row = {"exam_id": exam, "patient_id": f"{name}-p{patient:03d}"}
            row["device"] = devices[patient % len(devices)]
            if held_out_patients is not None:
                row["split"] = "test" if patient >= patients - held_out_patients else "train"
            graded = _grades(rng, measurements, grades, cycle=patient + index)
            for image in images:
                row[f"{image}_path"] = f"images/{exam}_{image}{suffix}"
                if roi is not None:
                    row[f"{image}_roi"] = roi
                share = max(graded.values()) / (grades - 1)
                _picture(rng, size_px, share, colour=image == "doppler").save(path / row[f"{image}_path"])
            for column, values in (extra or {}).items():
                row[column] = values[len(manifest)]
            manifest.append(row)
            readings += _readings(exam, graded, readers)
    write_table(path / "manifest.csv", manifest)
    write_table(path / "grades.csv", readings)
    return path


def small_site(path: Path, *, seed: int = 0, grades: int = 3) -> Path:
    """A site of eight patients with hypertrophy alone, named as its folder.

    It says who is held out: drawn, one site in a thousand so small has too few to train.
    """
    return make_site_folder(
        path,
        name=path.name,
        patients=8,
        seed=seed,
        measurements=("hypertrophy",),
        grades=grades,
        held_out_patients=2,
    )


def make_settings(
    *,
    images: Sequence[str] = ("gs", "doppler"),
    measurements: Sequence[str] = ("hypertrophy", "vascularity"),
    grades: int = 4,
    image_px: int = 16,
    folds: int = 2,
    method: str = "rating",
    weights: str = "none",
    backbone: str = "small",
    text: str = "",
) -> Settings:
    """Settings that fit :func:`make_site_folder`; every measurement is read from all images."""
    rating = list(measurements) == ["hypertrophy", "vascularity"] and grades == 4
    lines = ['name = "test"', f'method = "{method}"', f'validity = "{"eoss" if rating else "any"}"']
    for image in images:
        lines += [f"[images.{image}]", f'kind = "{"doppler" if image == "doppler" else "grey"}"']
    for measurement in measurements:
        lines += [f"[measurements.{measurement}]", f"grades = {grades}", f"images = {list(images)}"]
    lines += [
        "[network]",
        f"image_px = {image_px}",
        f'weights = "{weights}"',
        f'backbone = "{backbone}"',
        "[rating]",
        f"folds = {folds}",
        text,
    ]
    return parse("\n".join(lines))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ungrade(folder: Path, exams: Collection[int]) -> list[str]:
    """Remove all readings of the exams at these places of the manifest.

    Returns:
        The exams' identifiers.
    """
    names = [row["exam_id"] for i, row in enumerate(read_table(folder / "manifest.csv")) if i in exams]
    rows = [row for row in read_table(folder / "grades.csv") if row["exam_id"] not in names]
    write_table(folder / "grades.csv", rows)
    return names


def write_table(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write rows, the first of which names the columns."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _grades(
    rng: np.random.Generator, measurements: Sequence[str], grades: int, *, cycle: int
) -> dict[str, int]:
    """Grades of one exam: the first measurement runs through all grades, the others are random."""
    graded = {name: int(rng.integers(grades)) for name in measurements}
    graded[measurements[0]] = cycle % grades
    if graded.get("hypertrophy") == 0 and "vascularity" in graded:
        graded["vascularity"] = 0
    return graded


def _readings(exam: str, graded: Mapping[str, int], readers: int) -> list[dict[str, str]]:
    rows = []
    for reader in range(readers):
        low = 1 if reader > 0 and reader == readers - 1 and graded.get("hypertrophy") != 1 else 0
        given = {name: str(max(grade - low, 0)) for name, grade in graded.items()}
        rows.append({"exam_id": exam, "reader": f"r{reader + 1}", "session": "1", **given})
    return rows


def _picture(
    rng: np.random.Generator, size_px: tuple[int, int], share: float, *, colour: bool
) -> Image.Image:
    width, height = size_px
    grey = rng.integers(0, 80, size=(height, width)) + int(120 * share)
    if not colour:
        return Image.fromarray(grey.astype(np.uint8))
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    flow = np.zeros((height, width), dtype=bool)
    flow[height // 4 : height // 4 + int(share * height / 2), width // 4 : 3 * width // 4] = True
    rgb[flow] = (220, 30, 20)
    return Image.fromarray(rgb.astype(np.uint8))
