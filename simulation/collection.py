"""Public pictures with grades, as a folder like a site's: ``manifest.csv``, ``grades.csv``, pictures."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import ConfigurationError, DataError
from simulation.cohort import place

DESCRIPTIVE = (
    "exam_id", "patient_id", "visit", "side", "joint", "digit", "view", "device", "diagnosis", "split",
    "fold",
)  # fmt: skip
"""Columns of a manifest that are neither a picture's nor a grade."""
READING = ("exam_id", "reader", "session")
READER = "consensus"
Row = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Pictures with readers' grades.

    Attributes:
        root: folder that the paths in the manifest start from.
        manifest: one row an exam.
        grades: one row a reading: ``exam_id, reader, session`` and a column a measurement.
        ungraded: how many rows of labels were left out because they have no grade.
    """

    root: Path
    manifest: Sequence[Row]
    grades: Sequence[Row]
    ungraded: int = 0


def read_labels(images: Path, labels: Path, columns: Mapping[str, str]) -> Collection:
    """Read a table of labels.

    Args:
        images: folder that the paths in the table start from.
        labels: CSV with one row an exam.
        columns: manifest or measurement column -> column of ``labels``. ``<image>_path`` and ``patient_id``
            are needed; ``exam_id`` defaults to the line's number. A column that is no manifest column is a
            measurement: whole numbers, blank where not graded. A row without any grade is left out.

    Raises:
        DataError: for a missing file or column, and for all rows that cannot be used, listed.
    """
    measurements = [name for name in columns if not _describes(name)]
    needed = {"patient_id"} - set(columns)
    if needed or not measurements or not any(name.endswith("_path") for name in columns):
        raise ConfigurationError(
            f"Expected columns for patient_id, an <image>_path and a measurement, got {sorted(columns)}"
        )
    table = read_rows(labels, list(columns.values()))
    manifest: list[Row] = []
    grades: list[Row] = []
    errors: list[str] = []
    for line, cells in table:
        row = {name: cells[column] for name, column in columns.items()}
        row.setdefault("exam_id", f"e{line:06d}")
        graded = {name: row.pop(name) for name in measurements}
        if not any(graded.values()):
            continue
        errors += [f"  line {line}: {problem}" for problem in _problems(images, row, graded)]
        manifest.append(row)
        grades.append({"exam_id": row["exam_id"], "reader": READER, "session": "1", **graded})
    _refuse(labels, errors)
    return Collection(root=images, manifest=manifest, grades=grades, ungraded=len(table) - len(manifest))


def read_collection(manifest: Path, *, grades: str = "grades.csv") -> Collection:
    """Read a manifest and the readers' grades beside it; every column is kept as it is.

    Raises:
        DataError: for a missing file or column, and for pictures that are not there, all listed.
    """
    rows = read_rows(manifest, ["exam_id", "patient_id"])
    readings = [row for _, row in read_rows(manifest.parent / grades, ["exam_id", "reader"])]
    errors = [
        f"  line {line}: {problem}" for line, row in rows for problem in _problems(manifest.parent, row, {})
    ]
    _refuse(manifest, errors)
    return Collection(root=manifest.parent, manifest=[row for _, row in rows], grades=readings)


def import_pictures(images: Path, labels: Path, columns: Mapping[str, str], out: Path) -> Path:
    """Make a collection's folder from a folder of pictures and a table of labels, see :func:`read_labels`.

    Returns:
        The manifest that was made.

    Raises:
        DataError: if the labels cannot be used, or ``out`` exists.
    """
    collection = read_labels(images, labels, columns)
    with draft_folder(out) as folder:
        write_folder(folder, collection, collection.manifest)
    return out / "manifest.csv"


@contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that is renamed to it when all went well."""
    if out.exists():
        raise DataError(f"Expected no folder at {out}: choose another place or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o755)
        place(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_folder(folder: Path, collection: Collection, rows: Sequence[Row]) -> None:
    """Copies, not links: whoever edits a site's picture must not edit the original."""
    manifest = []
    for row in rows:
        moved = dict(row)
        for column in (name for name in row if name.endswith("_path")):
            moved[column] = f"images/{row[column].removeprefix('images/')}"
            target = folder / moved[column]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(collection.root / row[column], target)
        manifest.append(moved)
    exams = {row["exam_id"] for row in rows}
    _write(folder / "manifest.csv", manifest)
    _write(folder / "grades.csv", [row for row in collection.grades if row["exam_id"] in exams])


def _write(path: Path, rows: Sequence[Row]) -> None:
    if not rows:
        raise DataError(f"Expected at least one exam for {path.name}, got none")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _describes(column: str) -> bool:
    return column in DESCRIPTIVE or column.endswith(("_path", "_roi"))


def read_rows(path: Path, needed: Iterable[str]) -> list[tuple[int, Row]]:
    """Line number and stripped cells of each row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in needed if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"Expected columns {missing} in {path}, got {list(reader.fieldnames or ())}")
            return [
                (
                    reader.line_num,
                    {key: (value or "").strip() for key, value in row.items() if key is not None},
                )
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Expected a table in UTF-8 at {path}: {error}") from None


def _problems(root: Path, row: Row, graded: Row) -> Iterator[str]:
    if not row["patient_id"]:
        yield "patient_id is empty"
    if row.get("split", "") not in ("", "train", "test"):
        yield f"split is {row['split']!r}, expected train, test or nothing"
    for column in (name for name in row if name.endswith("_path")):
        path = PurePosixPath(row[column])
        if not row[column] or path.is_absolute() or ".." in path.parts or not (root / path).is_file():
            yield f"{column} is {row[column]!r}, expected a picture inside {root}"
    for name, text in graded.items():
        if text and not text.isdecimal():
            yield f"{name} is {text!r}, expected a whole number or nothing"


def _refuse(path: Path, errors: Sequence[str]) -> None:
    if errors:
        shown = "\n".join(errors[:50])
        raise DataError(f"{path} has {len(errors)} errors; nothing was made:\n{shown}")
