"""All sites' training exams as one site: what centralised training would have had."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import tomli_w

from client.data.site_store import site_store
from client.data.store import Store
from client.data.tables.rows import read_rows
from client.site.site import Site
from common.exam import MISSING
from common.settings import Settings
from simulation.cohorts.cohort import CohortSite
from simulation.cohorts.collection import write_table

READER = "consensus"


def site(
    folder: Path,
    sites: Sequence[CohortSite],
    settings: Settings,
    *,
    name: str = "pooled",
    code: Sequence[str] = ("*",),
) -> Path:
    """Make a site folder of the training exams of several sites, with their labels and their folds.

    Pictures are hard links where the file system permits, else copies. A folder that is there is kept: what it
    holds follows from the sites.

    Args:
        folder: to make.
        sites: whose exams.
        settings: of the run.
        name: of the site.
        code: that its policy permits.

    Returns:
        ``folder``.
    """
    if folder.exists():
        return folder
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    manifest: list[dict[str, str]] = []
    grades: list[dict[str, str]] = []
    for member in sites:
        opened = Site.open(member.folder)
        for row, readings in _training_rows(opened, settings):
            manifest.append(_pooled_row(row, member.name, opened.data_folder, building, settings.images))
            grades += [{"exam_id": manifest[-1]["exam_id"], **reading} for reading in readings]
    write_table(building / "manifest.csv", manifest)
    write_table(building / "grades.csv", grades)
    policy = {
        "allow_unprotected": True,
        "methods": [settings.method],
        "code": list(code),
        "approval": "automatic",
        "metrics": ["counts", "losses", "score_histograms"],
        "diagnosis": True,
        "diagnosis_cohort": 1,
        "minimum_cohort": 1,  # whoever trained at a site trains here
        "maximum_update_bytes": 100_000_000_000,
        "keep_outbox_days": 0,
    }
    (building / "site.toml").write_text(tomli_w.dumps({"name": name, "policy": policy}), encoding="utf-8")
    building.rename(folder)
    return folder


def _training_rows(
    opened: Site, settings: Settings
) -> Iterator[tuple[Mapping[str, str], list[dict[str, str]]]]:
    """Manifest row, with its fold, and readings of every usable training exam of a site.

    Grades are the site's consensus. Numbers are the readers', whose mean need not be one that a reader may give.
    """
    store = site_store(opened, settings)
    table = read_rows(opened.data_folder / opened.file.data.manifest, ["exam_id", "patient_id"])
    rows = {row["exam_id"]: row for _, row in table.rows}
    numbers = _numbers(store, opened.file.data.consensus, settings.numbers)
    for index, exam_id in enumerate(store.exams["exam_id"]):
        fold = int(store.tensors.fold[index])
        if fold == MISSING:
            continue
        labels = {
            name: "" if (grade := int(store.tensors.grades[name][index])) == MISSING else str(grade)
            for name, measurement in settings.measurements.items()
            if measurement.by_readers
        }
        readings = [{"reader": READER, **labels, **dict.fromkeys(settings.numbers, "")}]
        readings += [dict.fromkeys(labels, "") | reading for reading in numbers.get(exam_id, ())]
        yield rows[exam_id] | {"fold": str(fold)}, readings


def _numbers(store: Store, rule: str, names: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """Exam -> what its readers gave as numbers, of those who count by the site's rule."""
    columns = list(names)
    found: dict[str, list[dict[str, str]]] = {}
    if not columns:
        return found
    for row in store.reader_grades.to_dict("records"):
        if not rule.startswith("reader:") or row["reader"] == rule.removeprefix("reader:"):
            given = {name: "" if pd.isna(row[name]) else repr(float(row[name])) for name in columns}
            found.setdefault(row["exam_id"], []).append({"reader": row["reader"], **given})
    return found


def _pooled_row(
    row: Mapping[str, str], site_name: str, data_folder: Path, building: Path, images: Iterable[str]
) -> dict[str, str]:
    pooled = {
        "exam_id": f"{site_name}/{row['exam_id']}",
        "patient_id": f"{site_name}/{row['patient_id']}",
        "device": row.get("device", ""),
        "diagnosis": row.get("diagnosis", ""),
        "split": "train",
        "fold": row["fold"],
    }
    for image in images:
        source = row[f"{image}_path"]
        path = f"{site_name}/{source}"
        (building / path).parent.mkdir(parents=True, exist_ok=True)
        if not (building / path).exists():
            _link(data_folder / source, building / path)
        pooled |= {f"{image}_path": path, f"{image}_roi": row.get(f"{image}_roi", "")}
    return pooled


def _link(source: Path, target: Path) -> None:
    if source.is_dir():  # a clip as a folder of frames
        target.mkdir()
        for frame in source.iterdir():
            _link(frame, target / frame.name)
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
