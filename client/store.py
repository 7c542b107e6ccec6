"""The site's store: every exam decoded once, cut, masked, and laid out as memory-mapped bytes.

``<site folder>/store/<key>/`` holds one ``.npy`` an image and ``index.json``. The key stands for everything that
shapes the store; a change of a table or picture makes it new. It is built beside its place and renamed there,
so it is whole or absent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from client.ingest.folds import folds
from client.ingest.pictures import CHANNELS, Cut, read_cut
from client.ingest.tables import Reading, Tables, read_tables
from common.errors import DataError
from common.exam import MISSING, Exam, Quarantined
from common.imaging.roi import stored_px
from common.settings import Settings
from common.training.data import ExamTensors

FORMAT = 1
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An opened store.

    Attributes:
        tensors: images, grades, folds and patients of all usable exams, memory-mapped: never write to them.
        exams: one row an exam, in the order of the tensors: ``exam_id, patient_id, device, diagnosis, joint``.
        reader_grades: one row a reading: ``exam_id, reader`` and a column a measurement (NaN: a gap).
        fingerprint: HMAC-SHA256 over tables and pictures with the site's secret; says nothing to others.
        quarantined: exams that are left out, with reasons.
        usable: measurement -> exams with a grade.
    """

    tensors: ExamTensors
    exams: pd.DataFrame
    reader_grades: pd.DataFrame
    fingerprint: str
    quarantined: tuple[Quarantined, ...]
    usable: Mapping[str, int]


_opened: dict[Path, tuple[object, Store]] = {}
_lock = threading.Lock()


def open_store(
    folder: Path,
    *,
    manifest: str,
    grades: str,
    consensus: str,
    settings: Settings,
    progress: Progress | None = None,
) -> Store:
    """Open a site's store, building it first where it is missing, damaged or out of date.

    Args:
        folder: the site's folder.
        manifest: file name of the manifest.
        grades: file name of the readers' grades.
        consensus: rule that makes one grade of several.
        settings: what the run needs.
        progress: told of pictures read, out of all.

    Raises:
        DataError: if tables cannot be used, or no exam can.
    """
    key = _key(settings, manifest=manifest, grades=grades, consensus=consensus)
    path = folder / "store" / key
    stamps = _stamps(folder, (manifest, grades))
    with _lock:
        known = _opened.get(path)
        if known is not None and known[0] == stamps:
            return known[1]
        store = _load(path, folder, stamps)
        if store is None:
            tables = read_tables(folder, manifest=manifest, grades=grades, rule=consensus, settings=settings)
            _build(path, folder, tables, stamps, settings, progress)
            store = _load(path, folder, stamps)
        if store is None:
            raise DataError(f"The store of {folder} changed while it was built: is its data being written to?")
        _opened[path] = (stamps, store)
        return store


def site_secret(folder: Path) -> bytes:
    """The site's secret of 32 bytes, made on first use, readable by its owner only."""
    path = folder / "store" / "secret"
    path.parent.mkdir(exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _key(settings: Settings, *, manifest: str, grades: str, consensus: str) -> str:
    shape = {
        "format": FORMAT,
        "images": {name: image.model_dump() for name, image in settings.images.items()},
        "measurements": {name: m.grades for name, m in settings.measurements.items()},
        "validity": settings.validity,
        "image_px": settings.network.image_px,
        "folds": settings.rating.folds,
        "held_out": settings.evaluate.held_out,
        "tables": [manifest, grades, consensus],
    }
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


def _stamps(folder: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """Size and time of change of files, to notice that they changed."""
    try:
        return {name: [(s := (folder / name).stat()).st_size, s.st_mtime_ns] for name in names}
    except OSError as error:
        raise DataError(f"Expected {', '.join(names)} in {folder}: {error}") from None


def _load(path: Path, folder: Path, stamps: Mapping[str, list[int]]) -> Store | None:
    """The store, or ``None`` where it is missing, damaged or out of date."""
    try:
        index = json.loads((path / "index.json").read_text(encoding="utf-8"))
        if index["tables"] != stamps or index["pictures"] != _stamps(folder, list(index["pictures"])):
            return None
        images = {
            name: torch.from_numpy(np.load(path / f"{name}.npy", mmap_mode="c"))  # never written to
            for name in index["images"]
        }
    except (OSError, ValueError, KeyError, DataError):
        return None
    exams = pd.DataFrame(index["exams"])
    tensors = ExamTensors(
        images=images,
        grades={name: torch.tensor(values, dtype=torch.int8) for name, values in index["grades"].items()},
        fold=torch.tensor(index["fold"], dtype=torch.int8),
        patient=torch.from_numpy(pd.factorize(exams["patient_id"])[0].astype(np.int32)),
    )
    return Store(
        tensors=tensors,
        exams=exams,
        reader_grades=pd.DataFrame(index["readings"]),
        fingerprint=index["fingerprint"],
        quarantined=tuple(Quarantined(**entry) for entry in index["quarantined"]),
        usable={name: sum(v != MISSING for v in values) for name, values in index["grades"].items()},
    )


def _build(
    path: Path,
    folder: Path,
    tables: Tables,
    stamps: Mapping[str, list[int]],
    settings: Settings,
    progress: Progress | None,
) -> None:
    secret = site_secret(folder)
    building = path.with_name(f".building-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    building.mkdir()
    try:
        pictures = [ref.path for exam in tables.exams for ref in exam.images.values()]
        picture_stamps = _stamps(folder, pictures)
        digests, failed = _write_images(building, folder, tables.exams, settings, progress)
        kept = [i for i in range(len(tables.exams)) if i not in failed]
        if not kept:
            raise DataError(f"Expected usable exams in {folder}, all {len(failed)} are quarantined")
        exams = [tables.exams[i] for i in kept]
        index = _index(exams, tables, settings, secret=secret)
        index["quarantined"] += [asdict(failed[i]) for i in sorted(failed)]
        index["fingerprint"] = _fingerprint(folder, stamps, digests, secret)
        index |= {"tables": stamps, "pictures": picture_stamps, "images": list(settings.images)}
        if failed:
            _compact(building, settings.images, kept)
        (building / "index.json").write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(path, ignore_errors=True)
        building.replace(path)
    except OSError as error:
        if not (path / "index.json").exists():  # else another process was first, and its store serves as well
            raise DataError(f"The store in {path.parent} cannot be written: {error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_images(
    building: Path,
    folder: Path,
    exams: Sequence[Exam],
    settings: Settings,
    progress: Progress | None,
) -> tuple[list[str], dict[int, Quarantined]]:
    """Decode every picture once, in parallel, into the store's arrays."""
    side = stored_px(settings.network.image_px)
    digests: list[str] = []
    failed: dict[int, Quarantined] = {}
    arrays = {
        name: np.lib.format.open_memmap(
            building / f"{name}.npy",
            mode="w+",
            dtype=np.uint8,
            shape=(len(exams), CHANNELS[image.kind], side, side),
        )
        for name, image in settings.images.items()
    }

    def cuts(exam: Exam) -> list[Cut] | str:
        try:
            return [
                read_cut(folder, exam.images[name], image, image_px=settings.network.image_px)
                for name, image in settings.images.items()
            ]
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        for row, result in enumerate(pool.map(cuts, exams)):
            if isinstance(result, str):
                exam = exams[row]
                failed[row] = Quarantined(exam_id=exam.exam_id, line=exam.line, reason=f"picture: {result}")
            else:
                digests += [cut.digest for cut in result]
                for array, cut in zip(arrays.values(), result, strict=True):
                    array[row] = cut.pixels
            if progress is not None:
                progress(row + 1, len(exams))
    for array in arrays.values():
        array.flush()
    return digests, failed


def _compact(building: Path, images: Mapping[str, object], kept: Sequence[int]) -> None:
    for name in images:
        path = building / f"{name}.npy"
        np.save(path, np.load(path)[list(kept)])


def _index(exams: Sequence[Exam], tables: Tables, settings: Settings, *, secret: bytes) -> dict[str, object]:
    assigned: NDArray[np.int8] = folds(
        exams, secret=secret, held_out=settings.evaluate.held_out, count=settings.rating.folds
    )
    columns = ("exam_id", "patient_id", "device", "diagnosis", "joint")
    return {
        "exams": {column: [getattr(exam, column) for exam in exams] for column in columns},
        "grades": {
            name: [MISSING if (grade := exam.targets[name]) is None else grade for exam in exams]
            for name in settings.measurements
        },
        "fold": assigned.tolist(),
        "readings": _readings(tables.readings, settings),
        "quarantined": [asdict(entry) for entry in tables.quarantined],
    }


def _readings(readings: Sequence[Reading], settings: Settings) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {
        "exam_id": [reading.exam_id for reading in readings],
        "reader": [reading.reader for reading in readings],
    }
    return columns | {name: [reading.grades[name] for reading in readings] for name in settings.measurements}


def _fingerprint(folder: Path, tables: Mapping[str, object], digests: Sequence[str], secret: bytes) -> str:
    content = hmac.new(secret, digestmod=hashlib.sha256)
    for name in tables:
        content.update(hashlib.sha256((folder / name).read_bytes()).digest())
    content.update("".join(digests).encode())
    return content.hexdigest()
