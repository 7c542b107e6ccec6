"""The site's store: every exam decoded once, cut, masked, and laid out as memory-mapped bytes.

``<site folder>/store/<key>/`` holds one ``.npy`` per image and ``index.json``. The key stands for all settings
that shapes the store; a change of a table or picture makes it anew. It is built beside its place and renamed
there, so it is whole or absent; a lock lets one process build while others wait for it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from numpy.typing import NDArray

from client.data import withdrawn
from client.data.pictures import clips
from client.data.pictures.arrays import Progress, write_arrays
from client.data.tables import reading_room
from client.data.tables.folds import folds_of
from client.data.tables.sources import Sources
from client.data.tables.tables import Reading, Tables, grades_of, shares_of
from client.data.tables.ungraded import with_ungraded
from client.site.keys import site_secret
from common.errors import DataError
from common.exam import MISSING, Exam, Quarantined
from common.machine import atomic, file_lock
from common.methods.stages import learns_without_grades
from common.networks.spec import COMBINED
from common.scoring import eoss
from common.sections.validity import Validity, dumped
from common.settings import Settings
from common.training.data import ExamTensors

FORMAT = 5
COLUMNS = ("exam_id", "patient_id", "device", "diagnosis", "joint", "age", "sex")
Answers = Mapping[str, Int64[np.ndarray, " exams"]]
"""Score -> grades, ``MISSING`` where there is none."""
Stamps = dict[str, list[int] | None]
"""File name -> size in bytes and time of change in ns; ``None``: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An opened store.

    Attributes:
        tensors: images, grades, folds and patients of all usable exams, memory-mapped: never write to them. Exams
            that nobody graded come last; only a plan that learns without grades has some, of training patients.
        exams: one row per exam, in the order of the tensors: ``exam_id, patient_id, device, diagnosis, joint,
            age, sex, fold`` (-1: held out; age NaN, sex empty: not known).
        reader_grades: one row per reading of a single reader: ``exam_id, reader`` and one column per measurement
            (NaN: a gap).
        fingerprint: HMAC-SHA256 over tables and pictures with the site's secret; says nothing to others.
        quarantined: exams that are left out, with reasons.
        notes: what else deserves a look.
        usable: measurement -> exams with a grade.
        patients: measurement -> patients with such an exam.
    """

    tensors: ExamTensors
    exams: pd.DataFrame
    reader_grades: pd.DataFrame
    fingerprint: str
    quarantined: tuple[Quarantined, ...]
    notes: tuple[str, ...]
    usable: Mapping[str, int]
    patients: Mapping[str, int]


_opened: dict[Path, tuple[Stamps, Store]] = {}
_opening = threading.Lock()


def open_store(sources: Sources, settings: Settings, *, progress: Progress | None = None) -> Store:
    """Open a site's store, building it first where it is missing, damaged or out of date.

    Within a process a store that is open stays as it is until a table changes, so that the pictures of a
    running campaign do not change under it.

    Args:
        sources: where the data are.
        settings: what the run needs.
        progress: told of exams read, out of all.

    Raises:
        DataError: if tables cannot be used, or no exam can.
    """
    path = sources.site / "store" / _key(sources, settings)
    stamps = _stamps(sources.data, (sources.manifest, sources.grades)) | withdrawn.stamp(sources.site)
    stamps |= _stamps(sources.site, reading_room.tables(sources.site))
    with _opening:
        known = _opened.get(path)
        if known is not None and known[0] == stamps:
            return known[1]
        store = _load(path, sources, stamps)
        if store is None:
            store = _load_or_build(path, sources, stamps, settings, progress)
        _opened[path] = (stamps, store)
        return store


def graded(store: Store) -> Store:
    """The store without the exams that nobody graded, for all that compares with grades."""
    data, count = store.tensors, int(store.tensors.graded.sum())
    if count == len(data):
        return store
    tensors = ExamTensors(
        images={name: pictures[:count] for name, pictures in data.images.items()},
        grades={name: values[:count] for name, values in data.grades.items()},
        fold=data.fold[:count],
        patient=data.patient[:count],
        numbers={name: values[:count] for name, values in data.numbers.items()},
    )
    return replace(store, tensors=tensors, exams=store.exams[:count])


def consensus(store: Store, validity: Validity) -> Answers:
    """The site's readers' consensus of every exam of a store."""
    grades = {name: values.numpy().astype(np.int64) for name, values in store.tensors.grades.items()}
    return with_combined(grades, validity)


def with_combined(grades: dict[str, Int64[np.ndarray, " exams"]], validity: Validity) -> Answers:
    """Grades, and the combined score's where the rule of validity has one."""
    if validity != "eoss":
        return grades
    h, v = grades["hypertrophy"], grades["vascularity"]
    return grades | {COMBINED: eoss.combined_or_missing(h, v)}


def training_exams(store: Store) -> pd.DataFrame:
    """The exams that are not held out, as :attr:`Store.exams` has them."""
    return store.exams[store.exams["fold"] != MISSING]


def eligible(store: Store) -> list[str]:
    """Identifiers of the patients who have a training exam, in their own order: releases are debited to them."""
    return sorted(set(map(str, training_exams(store)["patient_id"])))


def everybody(store: Store) -> list[str]:
    """Identifiers of all patients, in their own order; who is held out now may have been trained on before."""
    return sorted(set(map(str, store.exams["patient_id"])))


def close_all() -> None:
    """Look at all pictures again when a store is opened next: a run begins with what is on the disk."""
    with _opening:
        _opened.clear()


def _key(sources: Sources, settings: Settings) -> str:
    shape = {
        "format": FORMAT,
        "images": {name: image.model_dump() for name, image in settings.images.items()},
        "measurements": {name: m.grades for name, m in settings.measurements.items()},
        "validity": dumped(settings.validity),
        "image_px": settings.network.image_px,
        "folds": settings.folds,
        "held_out": settings.held_out,
        "sources": [str(sources.data.resolve()), sources.manifest, sources.grades, sources.consensus],
    }
    if learns_without_grades(settings):
        shape["ungraded"] = True
    derived = {n: m.model_dump() for n, m in settings.measurements.items() if not m.by_readers}
    if derived or settings.numbers:
        shape["derived"] = [derived, {n: of_range.model_dump() for n, of_range in settings.numbers.items()}]
    if settings.split_by != "patient":
        shape["split_by"] = settings.split_by
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


def _files(folder: Path, exams: Sequence[Exam]) -> Iterator[str]:
    """Paths of all picture files; a folder of frames and every file in it, since any of them may change."""
    for exam in exams:
        for ref in exam.images.values():
            yield ref.path
            if ref.kind == "clip" and (folder / ref.path).is_dir():
                yield from (file.relative_to(folder).as_posix() for file in clips.files_of(folder / ref.path))


def _stamps(folder: Path, names: Sequence[str]) -> Stamps:
    """Size and time of change of files, to notice that they changed."""

    def stamp(path: Path) -> list[int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]

    return {name: stamp(folder / name) for name in names}


def _load(path: Path, sources: Sources, stamps: Stamps) -> Store | None:
    """The store, or ``None`` where it is missing, damaged or out of date."""
    try:
        index = json.loads((path / "index.json").read_text(encoding="utf-8"))
        if index["tables"] != stamps or index["pictures"] != _stamps(sources.data, list(index["pictures"])):
            return None
        images = {name: np.load(path / f"{name}.npy", mmap_mode="c") for name in index["images"]}
        whole = all(len(array) == len(index["fold"]) for array in images.values())
        return _store(index, images) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(index: Mapping[str, Any], images: Mapping[str, NDArray[np.uint8]]) -> Store:
    exams = pd.DataFrame({**index["exams"], "fold": index["fold"]})
    tensors = ExamTensors(
        images={name: torch.from_numpy(array) for name, array in images.items()},
        grades={name: torch.tensor(values, dtype=torch.int8) for name, values in index["grades"].items()},
        fold=torch.tensor(index["fold"], dtype=torch.int8),
        patient=torch.from_numpy(pd.factorize(exams["patient_id"])[0].astype(np.int32)),
        numbers={
            name: torch.tensor(values, dtype=torch.float32)
            for name, values in index.get("numbers", {}).items()
        },
    )
    return Store(
        tensors=tensors,
        exams=exams,
        reader_grades=pd.DataFrame(index["readings"]),
        fingerprint=index["fingerprint"],
        quarantined=tuple(Quarantined(**entry) for entry in index["quarantined"]),
        notes=tuple(index["notes"]),
        usable={name: sum(v != MISSING for v in values) for name, values in index["grades"].items()},
        patients={
            name: len({p for p, v in zip(exams["patient_id"], values, strict=True) if v != MISSING})
            for name, values in index["grades"].items()
        },
    )


def _load_or_build(
    path: Path, sources: Sources, stamps: Stamps, settings: Settings, progress: Progress | None
) -> Store:
    try:
        with _locked(path.parent):
            store = _load(path, sources, stamps)  # another process may have built it while this one waited
            if store is None:
                _build(path, sources, stamps, settings, progress)
                store = _load(path, sources, stamps)
    except OSError as error:
        raise DataError(f"The store in {path.parent} cannot be written: {error.strerror}") from None
    if store is None:
        raise DataError(
            f"The data in {sources.data} changed while they were read: try again when they are whole"
        )
    return store


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among all processes; what a killed builder left behind is cleared away."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "geteuid") and folder.stat().st_uid == os.geteuid():
        folder.chmod(0o700)  # pictures and patients' ids: not for other accounts of this machine
    with file_lock.hold(folder / file_lock.NAME):
        for left_over in folder.glob(".building-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        yield


def _build(
    path: Path, sources: Sources, stamps: Stamps, settings: Settings, progress: Progress | None
) -> None:
    secret = site_secret(sources.site)
    tables = with_ungraded(sources.tables(settings), settings, secret=secret)
    tables = withdrawn.without(sources.site, tables)
    building = path.with_name(f".building-{path.name}")
    building.mkdir()
    try:
        pictures = list(_files(sources.data, tables.exams))
        before = _stamps(sources.data, pictures)
        written = write_arrays(building, sources.data, tables.exams, settings, progress)
        quarantined = (*tables.quarantined, *written.quarantined)
        if not written.kept:
            raise DataError(_none_usable(quarantined, sources.data))
        index = {
            **_index([tables.exams[i] for i in written.kept], tables, settings, secret=secret),
            "quarantined": [asdict(entry) for entry in sorted(quarantined, key=lambda entry: entry.line)],
            "notes": [*tables.notes, *written.notes],
            "fingerprint": _fingerprint(sources, written.digests, secret),
            "tables": stamps,
            "pictures": before,
            "images": list(settings.images),
        }
        (building / "index.json").write_text(json.dumps(index), encoding="utf-8")
        atomic.sync_tree(building)
        shutil.rmtree(path, ignore_errors=True)
        building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _none_usable(quarantined: Sequence[Quarantined], folder: Path) -> str:
    first = "\n".join(f"  line {entry.line}: {entry.reason}" for entry in quarantined[:5])
    return f"Expected usable exams in {folder}, all {len(quarantined)} are quarantined, for example:\n{first}"


def _index(exams: Sequence[Exam], tables: Tables, settings: Settings, *, secret: bytes) -> dict[str, object]:
    assigned = folds_of(exams, settings, secret=secret)
    return {
        "exams": {column: [getattr(exam, column) for exam in exams] for column in COLUMNS},
        "grades": grades_of(exams, settings),
        "numbers": shares_of(exams, settings),
        "fold": assigned.tolist(),
        "readings": _readings(tables.readings, settings),
    }


def _readings(readings: Sequence[Reading], settings: Settings) -> dict[str, list[object]]:
    readings = [reading for reading in readings if not reading.settles]
    columns: dict[str, list[object]] = {
        "exam_id": [reading.exam_id for reading in readings],
        "reader": [reading.reader for reading in readings],
    }
    columns |= {name: [reading.numbers.get(name) for reading in readings] for name in settings.numbers}
    by_readers = [name for name, graded in settings.measurements.items() if not graded.column]
    return columns | {name: [reading.grades.get(name) for reading in readings] for name in by_readers}


def _fingerprint(sources: Sources, digests: Sequence[str], secret: bytes) -> str:
    content = hmac.new(secret, digestmod=hashlib.sha256)
    room = reading_room.tables(sources.site)
    tables = [
        sources.data / sources.manifest,
        sources.data / sources.grades,
        *(sources.site / name for name in room),
    ]
    for table in tables:
        content.update(hashlib.sha256(table.read_bytes() if table.exists() else b"").digest())
    content.update("".join(digests).encode())
    return content.hexdigest()
