"""Reads the annotation files of RAM-H1200 (arXiv 2605.05616, CC BY 4.0): scores of 31 sites of each pictured hand.

Layout, as the authors' own reader has it (github.com/YSongxiao/RAM-H1200; facts only): a folder with ``train``,
``val`` and ``test``, or one of them itself; in each ``_annotation_be_scores.json`` (16 erosions, 0-5) and
``_annotation_jsn_scores.json`` (15 joint spaces, 0-4), which map a picture's file name to its sites' scores. Where
the pictures of whole hands lie is not said there: they are looked for beside the files, in ``images/`` and in the
folder of the picture's name.
The data set itself was not at hand: this was tried on a made-up copy of that layout.

One picture is one hand, and its total 0-140. Whose hand it is stands in no file: by default each picture is a patient
of its own, which is wrong where two are of one person; a pattern tells patients by the pictures' names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from client.data.tables.rows import Row, refuse
from common.errors import ConfigurationError, DataError
from common.text import csv_text
from simulation.cohorts.collection import READER, Collection, draft_folder, write_copies, write_folder
from simulation.hand.sites import WORST_EROSION, WORST_NARROWING

FINGERS: Final = {"T": 1, "I": 2, "M": 3, "R": 4, "S": 5}
"""Theirs, from thumb to small finger."""
EROSION: Final = {
    "BE_IP": "IP1", **{f"BE_MCP-{letter}": f"MCP{digit}" for letter, digit in FINGERS.items()},
    **{f"BE_PIP-{letter}": f"PIP{digit}" for letter, digit in FINGERS.items() if digit > 1},
    "BE_CMC-T": "MC1", "BE_Tm": "trapezium", "BE_S": "scaphoid", "BE_L": "lunate", "BE_R": "radius", "BE_U": "ulna",
}  # fmt: skip
"""Their key -> our name of the site (``simulation.hand.sites``)."""
NARROWING: Final = {
    **{f"JSN_MCP-{letter}": f"MCP{digit}" for letter, digit in FINGERS.items()},
    **{f"JSN_PIP-{letter}": f"PIP{digit}" for letter, digit in FINGERS.items() if digit > 1},
    **{f"JSN_CMC-{letter}": f"CMC{digit}" for letter, digit in FINGERS.items() if digit > 2},
    "JSN_STT": "scaphotrapezial", "JSN_SC": "scaphocapitate", "JSN_SR": "radioscaphoid",
}  # fmt: skip
KINDS: Final = {
    "erosion": ("_annotation_be_scores.json", EROSION, WORST_EROSION),
    "narrowing": ("_annotation_jsn_scores.json", NARROWING, WORST_NARROWING),
}
SPLITS: Final = {"train": "train", "val": "train", "test": "test"}
NUMBER, IMAGE = "svdh", "hand"
Scores = Mapping[str, Mapping[str, int]]
"""Kind -> site -> score."""


def import_hands(root: Path, out: Path, *, patient: str = "") -> Path:
    """Make a folder with manifest, grades and pictures; beside them ``sites.csv`` and ``totals.csv``.

    ``grades.csv`` has ``svdh`` (0-140), ``erosion`` (0-80) and ``narrowing`` (0-60) of each hand, ``sites.csv`` the
    31 scores, ``totals.csv`` the total (0-280) of patients with exactly two hands.

    Args:
        root: the data set's folder, or one of its splits.
        out: to be made.
        patient: regular expression whose first group is the patient's name in a picture's name; empty: each picture
            is a patient of its own.

    Returns:
        The manifest.

    Raises:
        ConfigurationError: if the pattern is none, or has no group.
        DataError: for a missing file, and for all scores that cannot be used, listed.
    """
    collection, scores = read_hands(root, patient=_pattern(patient))
    with draft_folder(out) as folder:
        write_folder(folder, collection, range(len(collection.manifest)))
        write_copies(folder, collection)
        _write(folder / "sites.csv", ("exam_id", "kind", "site", "grade"), _sites(scores))
        _write(folder / "totals.csv", ("patient_id", NUMBER), _totals(collection))
    return out / "manifest.csv"


def read_hands(root: Path, *, patient: re.Pattern[str] | None = None) -> tuple[Collection, dict[str, Scores]]:
    """The hands as a collection, and the scores of each exam's sites; see :func:`import_hands`."""
    manifest: list[Row] = []
    readings: list[list[Row]] = []
    scores: dict[str, Scores] = {}
    errors: list[str] = []
    for folder, split in _splits(root):
        files = {kind: _read(folder / file) for kind, (file, _, _) in KINDS.items()}
        for name in sorted(files["erosion"].keys() & files["narrowing"].keys()):
            exam_id = f"{folder.name}-{Path(name).stem}" if split else Path(name).stem
            found = {kind: _scores(files[kind][name], kind) for kind in KINDS}
            problems = [problem for of_kind in found.values() for problem in of_kind[1]]
            picture, person = _picture(root, folder, name), _patient(name, patient)
            problems += [] if picture else ["no picture of that name"]
            problems += [] if person else ["no patient in its name"]
            errors += [f"  {folder.name}/{name}: {problem}" for problem in problems]
            scores[exam_id] = {kind: of_kind[0] for kind, of_kind in found.items()}
            row = {"exam_id": exam_id, "patient_id": person, f"{IMAGE}_path": picture}
            manifest.append({**row, **({"split": split} if split else {})})
            sums = {kind: sum(of_kind[0].values()) for kind, of_kind in found.items()}
            reading = {"exam_id": exam_id, "reader": READER, "session": "1", NUMBER: str(sum(sums.values()))}
            readings.append([{**reading, **{kind: str(value) for kind, value in sums.items()}}])
    refuse(root, errors)
    if not manifest:
        raise DataError(f"Expected hands with both scores in {root}, got none")
    lines = range(1, len(manifest) + 1)
    columns = (NUMBER, *KINDS)
    return (
        Collection(root=root, manifest=manifest, readings=readings, lines=lines, measurements=columns),
        scores,
    )


def _pattern(text: str) -> re.Pattern[str] | None:
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigurationError(
            f"Expected a regular expression for patients, got {text!r}: {error}"
        ) from None
    if not pattern.groups:
        raise ConfigurationError(
            f"Expected a group for the patient's name, as in '^(P[0-9]+)_', got {text!r}"
        )
    return pattern


def _splits(root: Path) -> list[tuple[Path, str]]:
    """Folders with annotation files, and what the manifest says of their hands."""
    file = KINDS["erosion"][0]
    found = [(root / name, split) for name, split in SPLITS.items() if (root / name / file).is_file()]
    if not found and (root / file).is_file():
        return [(root, "")]
    if not found:
        raise DataError(f"Expected {file} in {root} or in {', '.join(SPLITS)} there, got none")
    return found


def _read(path: Path) -> dict[str, dict[str, object]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"Expected scores as JSON in {path}: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(scores, dict) for scores in found.values()):
        raise DataError(f"Expected an object of pictures' scores in {path}, got something else")
    return found


def _scores(given: Mapping[str, object], kind: str) -> tuple[dict[str, int], list[str]]:
    """Site -> score, and what is wrong: a total needs all of them."""
    _, names, worst = KINDS[kind]
    scores: dict[str, int] = {}
    problems = []
    for key, site in names.items():
        value = given.get(key)
        text = str(value).strip().removesuffix(".0")
        if not text.isdecimal() or int(text) > worst:
            problems.append(f"{key} is {value!r}, expected a whole number from 0 to {worst}")
        else:
            scores[site] = int(text)
    return scores, problems


def _picture(root: Path, folder: Path, name: str) -> str:
    """The path of a hand's picture from ``root``; empty: there is none."""
    if Path(name).name != name:
        return ""
    places = (folder / name, folder / "images" / name, folder / Path(name).stem / name)
    found = [place for place in places if place.is_file()]
    return found[0].relative_to(root).as_posix() if found else ""


def _patient(name: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return Path(name).stem
    found = pattern.search(name)
    return (found[1] or "") if found else ""


def _sites(scores: Mapping[str, Scores]) -> Iterator[tuple[str, str, str, int]]:
    for exam_id, of_exam in scores.items():
        for kind, sites in of_exam.items():
            yield from ((exam_id, kind, site, grade) for site, grade in sites.items())


def _totals(collection: Collection) -> Iterator[tuple[str, int]]:
    hands: dict[str, list[int]] = {}
    for row, (reading,) in zip(collection.manifest, collection.readings, strict=True):
        hands.setdefault(row["patient_id"], []).append(int(reading[NUMBER]))
    yield from ((patient, sum(totals)) for patient, totals in hands.items() if len(totals) == 2)


def _write(path: Path, columns: Sequence[str], rows: Iterator[tuple[str | int, ...]]) -> None:
    path.write_text(csv_text.table(columns, list(rows)), encoding="utf-8", newline="")
