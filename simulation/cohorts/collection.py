"""Public pictures with grades, as a folder like a site's: ``manifest.csv``, ``grades.csv``, pictures."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from client.data.tables.rows import MOST_GRADES, Row, Table, grade, number, read_rows, refuse
from common.errors import ConfigurationError, DataError
from common.sections.measurements import NumberSettings
from common.text import csv_text
from simulation.cohorts.cohort import place
from simulation.cohorts.copies import Copy, Picture, find_copies

DESCRIPTIVE = (
    "exam_id", "patient_id", "visit", "side", "joint", "digit", "view", "device", "diagnosis", "age", "sex",
    "excluded", "split", "fold",
)  # fmt: skip
"""Columns of a manifest that are neither a picture's nor a grade."""
READING = ("exam_id", "reader", "session")
READER = "consensus"
EACH_PICTURE = "each-picture"
"""In place of a column of patients: every picture is a patient of its own."""
COPIES = "copies.csv"
MOST_WORDS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """How a table of labels is read.

    Attributes:
        columns: manifest column or measurement -> column of the table. ``<image>_path`` and ``patient_id`` are
            needed; ``exam_id`` defaults to the line's number. What is no measurement passes through to the manifest.
        measurements: which of the columns are grades: whole numbers, or words that ``words`` knows, blank where not
            graded. None named: the one column that is no manifest column.
        numbers: which of them are numbers that readers give, and what these can be.
        words: the table's word -> grade; upper and lower case are the same.
        patient: column of the patients, in place of ``columns["patient_id"]``, or ``each-picture``.
        sheet: of an XLSX file; the first where empty.
        header_row: line of the header; 0: where it is found.
    """

    columns: Mapping[str, str]
    measurements: Sequence[str] = ()
    numbers: Mapping[str, NumberSettings] = field(default_factory=dict)
    words: Mapping[str, int] | None = None
    patient: str = ""
    sheet: str = ""
    header_row: int = 0

    def all_columns(self) -> dict[str, str]:
        """Columns, the patients' among them where there is one."""
        by_column = self.patient and self.patient != EACH_PICTURE
        return {**self.columns, **({"patient_id": self.patient} if by_column else {})}

    def graded(self) -> tuple[str, ...]:
        """The measurements.

        Raises:
            ConfigurationError: if nobody says which they are, or a column that is needed is missing.
        """
        columns = self.all_columns()
        others = [name for name in columns if not _describes(name) and name not in self.numbers]
        if not self.measurements and not self.numbers and len(others) > 1:
            raise ConfigurationError(
                f"Expected to be told which of {', '.join(others)} are graded measurements: name them with "
                f"--measurement; the others pass through to the manifest"
            )
        measurements = tuple(self.measurements or (() if self.numbers else others))
        unknown = [name for name in measurements if name not in others]
        nothing = not measurements and not self.numbers
        patients = "patient_id" in columns or self.patient == EACH_PICTURE
        if unknown or nothing or not patients or not _images(columns):
            stray = f", measurements {', '.join(unknown)} without a column" if unknown else ""
            raise ConfigurationError(
                f"Expected columns for patient_id, an <image>_path and a measurement, got {sorted(columns)}{stray}"
            )
        if self.patient and "patient_id" in self.columns:
            raise ConfigurationError(
                f"Expected patients from {self.patient!r} or from the column {self.columns['patient_id']!r}, got both"
            )
        return measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Pictures with readers' grades.

    Attributes:
        root: folder that the paths in the manifest start from.
        manifest: one row per exam.
        readings: of each row of the manifest, its rows of grades: ``exam_id, reader, session`` and a column a
            measurement. They belong to the row, not to the id: other hospitals may use the same ids.
        lines: of the manifest's rows in the table that they are from.
        measurements: columns of grades.
        numbers: columns of numbers, and what these can be.
        ungraded: how many rows of labels were left out because they have no grade.
    """

    root: Path
    manifest: Sequence[Row]
    readings: Sequence[Sequence[Row]]
    lines: Sequence[int]
    measurements: Sequence[str]
    ungraded: int = 0
    numbers: Mapping[str, NumberSettings] = field(default_factory=dict)

    @property
    def grades(self) -> list[Row]:
        """All readings, in the order of the manifest."""
        return [reading for readings in self.readings for reading in readings]

    def copies(self) -> tuple[Copy, ...]:
        """Pictures that two patients have alike."""
        return find_copies(
            self.root,
            [
                Picture(
                    line=line,
                    patient_id=row["patient_id"],
                    image=column.removesuffix("_path"),
                    path=row[column],
                )
                for line, row in zip(self.lines, self.manifest, strict=True)
                for column in _images(row)
                if row[column]
            ],
        )


def read_labels(images: Path, labels: Path, columns: Mapping[str, str] | Labels) -> Collection:
    """Read a table of labels.

    Args:
        images: folder that the paths in the table start from.
        labels: CSV or XLSX with one row per exam.
        columns: how it is read; a mapping alone stands for its columns. A row without any grade is left out.

    Raises:
        ConfigurationError: if a column that is needed is not named.
        DataError: for a missing file or column, and for all rows that cannot be used, listed.
    """
    how = columns if isinstance(columns, Labels) else Labels(columns=columns)
    measurements, named = how.graded(), how.all_columns()
    table = read_rows(labels, list(dict.fromkeys(named.values())), sheet=how.sheet, header_row=how.header_row)
    words = {word.casefold(): str(number) for word, number in (how.words or {}).items()}
    errors = list(_unknown_words(table, {name: named[name] for name in measurements}, words))
    told = {name for name, _ in errors}
    manifest: list[Row] = []
    readings: list[list[Row]] = []
    lines: list[int] = []
    listed = [f"  {text}" for _, text in errors]
    for line, cells in table.rows:
        row = {name: cells[column] for name, column in named.items()}
        graded, problems = _graded({name: row.pop(name) for name in measurements}, words, told)
        given, wrong = _numbers({name: row.pop(name) for name in how.numbers}, how.numbers)
        problems = [*problems, *wrong]
        graded |= given
        if not any(graded.values()) and not problems:
            continue
        row.setdefault("exam_id", f"e{line:06d}")
        row.setdefault("patient_id", next(row[column] for column in _images(row)))
        listed += [f"  line {line}: {problem}" for problem in (*_problems(images, row), *problems)]
        manifest.append(row)
        readings.append([{"exam_id": row["exam_id"], "reader": READER, "session": "1", **graded}])
        lines.append(line)
    refuse(labels, [*listed, *_exams_twice(manifest, lines), *_pictures_twice(manifest, lines)])
    return Collection(
        root=images,
        manifest=manifest,
        readings=readings,
        lines=lines,
        measurements=measurements,
        ungraded=len(table.rows) - len(manifest),
        numbers=how.numbers,
    )


def read_collection(manifest: Path, *, grades: str = "grades.csv") -> Collection:
    """Read a manifest and the readers' grades beside it; every column is kept as it is.

    A reading belongs to the row of the manifest that has its ``exam_id`` and, where several have, agrees with it in
    all columns that both tables have (``patient_id``, ``device``, ...).

    Raises:
        DataError: for a missing file or column, for pictures that are not there, and for readings of which nobody
            can tell whose they are, all listed.
    """
    table = read_rows(manifest, ["exam_id", "patient_id"])
    place = manifest.parent / grades
    readings = read_rows(place, ["exam_id", "reader"])
    rows, lines = [row for _, row in table.rows], [line for line, _ in table.rows]
    errors = [
        f"  line {line}: {problem}" for line, row in table.rows for problem in _problems(manifest.parent, row)
    ]
    refuse(manifest, [*errors, *_exams_twice(rows, lines)])
    measurements = _measurements(readings)
    shared = [c for c in table.columns if c in readings.columns and c not in (*READING, *measurements)]
    return Collection(
        root=manifest.parent,
        manifest=rows,
        readings=_joined(rows, lines, readings, shared, place),
        lines=lines,
        measurements=measurements,
    )


def _measurements(readings: Table) -> list[str]:
    """The columns of a table of grades that are grades."""
    beside = {*READING, *DESCRIPTIVE, ""}
    return [
        c
        for c in readings.columns
        if c not in beside and any(row[c] and _is_grade(row[c]) for _, row in readings.rows)
    ]


def _joined(
    rows: Sequence[Row], lines: Sequence[int], readings: Table, shared: Sequence[str], path: Path
) -> list[list[Row]]:
    """The readings of each row of a manifest."""
    places: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(row["exam_id"], []).append(index)
    joined: list[list[Row]] = [[] for _ in rows]
    errors = []
    for line, reading in readings.rows:
        found = places.get(reading["exam_id"], [])
        if len(found) > 1:
            found = [i for i in found if all(rows[i][name] == reading[name] for name in shared)]
        whose = rows[found[0]]["patient_id"] if len(found) == 1 else ""
        if whose and reading.get("patient_id", whose) != whose:
            errors.append(
                f"  line {line}: patient_id is {reading['patient_id']!r}, expected {whose!r} as the manifest"
            )
        elif len(found) == 1:
            joined[found[0]].append({k: v for k, v in reading.items() if k not in shared})
        elif reading["exam_id"] in places:
            stand = ", ".join(str(lines[i]) for i in places[reading["exam_id"]])
            errors.append(
                f"  line {line}: exam_id is {reading['exam_id']!r}, which stands in lines {stand} of the manifest: "
                f"expected a column that both tables have, such as patient_id, to tell which is meant"
            )
    refuse(path, errors)
    return joined


def import_pictures(images: Path, labels: Path, columns: Mapping[str, str] | Labels, out: Path) -> Path:
    """Make a collection's folder from a folder of pictures and a table of labels, see :func:`read_labels`.

    Pictures that two patients have alike are listed in ``copies.csv`` there.

    Returns:
        The manifest that was made.

    Raises:
        DataError: if the labels cannot be used, or ``out`` exists.
    """
    collection = read_labels(images, labels, columns)
    with draft_folder(out) as folder:
        write_folder(folder, collection, range(len(collection.manifest)))
        write_copies(folder, collection)
    return out / "manifest.csv"


@contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that is renamed to it when all went well."""
    if out.exists():
        raise DataError(f"Expected nothing at {out} yet: choose another place, or remove what is there")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o755)
        place(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_folder(
    folder: Path, collection: Collection, chosen: Sequence[int], *, splits: Mapping[str, str] | None = None
) -> None:
    """Write some rows of a collection with their pictures and grades.

    Copies, not links: whoever edits a site's picture must not edit the original.

    Args:
        folder: that is there.
        collection: what is written.
        chosen: places of the rows.
        splits: patient -> train or test, in place of what the rows say.
    """
    manifest, grades = [], []
    rows = [collection.manifest[index] for index in chosen]
    twice = len({row["exam_id"] for row in rows}) < len(rows)
    for index, row in zip(chosen, rows, strict=True):
        moved = dict(row)
        for column in _images(row):
            moved[column] = f"images/{row[column].removeprefix('images/')}"
            target = folder / moved[column]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(collection.root / row[column], target)
        if splits is not None:
            moved["split"] = splits[row["patient_id"]]
        manifest.append(moved)
        whose = {"patient_id": row["patient_id"]} if twice else {}  # the id alone does not tell the exam
        grades += [{**whose, **reading} for reading in collection.readings[index]]
    write_table(folder / "manifest.csv", manifest)
    write_table(folder / "grades.csv", grades)


def write_copies(folder: Path, collection: Collection) -> int:
    """List pictures that two patients have alike in ``copies.csv``, if there are any; how many."""
    copies = collection.copies()
    if copies:
        columns = (
            "line",
            "patient_id",
            "path",
            "other_line",
            "other_patient_id",
            "other_path",
            "same_pixels",
        )
        rows = [
            (
                c.one.line, c.one.patient_id, c.one.path, c.other.line, c.other.patient_id, c.other.path,
                "yes" if c.same_pixels else "no",
            )
            for c in copies
        ]  # fmt: skip
        (folder / COPIES).write_text(csv_text.table(columns, rows), encoding="utf-8", newline="")
    return len(copies)


def remarks(folder: Path) -> tuple[str, ...]:
    """What is to be said of a folder that was imported or split: copies, patients of two sites."""
    index = folder / "cohort.json"
    said = json.loads(index.read_text(encoding="utf-8")).get("remarks", ()) if index.exists() else ()
    place = folder / COPIES
    if not place.exists():
        return tuple(map(str, said))
    count = len(read_rows(place, ["path"]).rows)
    what = "1 picture is" if count == 1 else f"{count} pictures are"
    return (
        *map(str, said),
        f"{what} the same, or nearly, at two patients: {place} lists them. Leave them out, or make them one patient",
    )


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows that have the columns of the first one.

    Raises:
        DataError: if there are none.
    """
    if not rows:
        raise DataError(f"Expected at least one exam for {path.name}, got none")
    columns = list(rows[0])
    text = csv_text.table(columns, ([row[column] for column in columns] for row in rows))
    path.write_text(text, encoding="utf-8", newline="")


def _describes(column: str) -> bool:
    return column in DESCRIPTIVE or column.endswith(("_path", "_roi"))


def _images(columns: Mapping[str, str]) -> list[str]:
    return [name for name in columns if name.endswith("_path")]


def _unknown_words(
    table: Table, columns: Mapping[str, str], words: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Measurements whose cells are words that nobody explained, as a whole: rather than one error per row."""
    for name, column in columns.items():
        cells = [row[column] for _, row in table.rows if row[column]]
        unknown = Counter(cell for cell in cells if cell.casefold() not in words and not _is_grade(cell))
        if unknown and sum(unknown.values()) > len(cells) / 2 and len(unknown) <= MOST_WORDS:
            found = ", ".join(f"{word!r} in {count} rows" for word, count in unknown.most_common())
            wanted = ",".join(f"{word}={place}" for place, word in enumerate(sorted(unknown)))
            yield (
                name,
                f"{name} is {found}, expected whole numbers: say what each word means, --grades {wanted}",
            )


def _graded(
    cells: Mapping[str, str], words: Mapping[str, str], told: set[str]
) -> tuple[dict[str, str], list[str]]:
    """Grades of a row as numbers, and what is wrong with others."""
    graded: dict[str, str] = {}
    problems: list[str] = []
    for name, text in cells.items():
        try:
            graded[name] = words.get(text.casefold()) or grade(text, MOST_GRADES)
        except DataError:
            graded[name] = text
            known = f", {', '.join(words)}" if words else ""
            if name not in told:
                problems.append(
                    f"{name} is {text!r}, expected a whole number from 0 to {MOST_GRADES - 1}{known} or nothing"
                )
    return graded, problems


def _numbers(
    cells: Mapping[str, str], ranges: Mapping[str, NumberSettings]
) -> tuple[dict[str, str], list[str]]:
    """Numbers of a row, and what is wrong with others."""
    given: dict[str, str] = {}
    problems: list[str] = []
    for name, text in cells.items():
        try:
            value = number(text, ranges[name])
            given[name] = "" if value is None else f"{value:.12g}"
        except DataError as error:
            given[name] = text
            problems.append(f"{name} is {text!r}, {error}")
    return given, problems


def _is_grade(text: str) -> bool:
    try:
        grade(text, MOST_GRADES)
    except DataError:
        return False
    return True


def _problems(root: Path, row: Row) -> Iterator[str]:
    for column in ("exam_id", "patient_id"):
        if not row[column]:
            yield f"{column} is empty, expected an identifier"
    if row.get("split", "") not in ("", "train", "test"):
        yield f"split is {row['split']!r}, expected train, test or nothing"
    for column in _images(row):
        path = PurePosixPath(row[column])
        if not row[column] or path.is_absolute() or ".." in path.parts or not (root / path).is_file():
            yield f"{column} is {row[column]!r}, expected a picture inside {root}"


def _pictures_twice(rows: Sequence[Row], lines: Sequence[int]) -> Iterator[str]:
    """Rows of one patient that show the same regions of the same pictures: an exam would count twice."""
    first: dict[tuple[str, ...], int] = {}
    for line, row in zip(lines, rows, strict=True):
        shown = (row[name] for name in row if name == "patient_id" or name.endswith(("_path", "_roi")))
        earlier = first.setdefault(tuple(shown), line)
        if earlier != line:
            yield f"  line {line}: has the pictures of line {earlier}, expected one row per exam"


def _exams_twice(rows: Sequence[Row], lines: Sequence[int]) -> Iterator[str]:
    """Exams that stand twice: two hospitals may use the same ids, a patient has each once."""
    first: dict[tuple[str, str], int] = {}
    for line, row in zip(lines, rows, strict=True):
        earlier = first.setdefault((row["patient_id"], row["exam_id"]), line)
        if earlier != line:
            yield f"  line {line}: exam_id {row['exam_id']!r} of this patient_id stands in line {earlier} already"
