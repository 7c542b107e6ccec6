"""What rows of the manifest say against each other: ids, sides, joints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from client.data.doctor.findings import Finding, Kind
from client.data.ingest.facts import WORDS
from client.ledger.identifiers import look_alikes

Rows = Sequence[tuple[int, Mapping[str, str]]]
JOINT = ("patient_id", "visit", "side", "joint", "digit", "view")


def row_findings(rows: Rows, images: Sequence[str]) -> Iterator[Finding]:
    """What is wrong with rows, pictures unseen."""
    yield from _cells(rows)
    yield from _ids(rows)
    yield from _sides(rows, images)
    yield from _twice(rows)


def _at(line: int, row: Mapping[str, str], check: Kind, what: str, *, problem: bool = True) -> Finding:
    return Finding(check=check, problem=problem, line=line, exam_id=row["exam_id"], what=what)


def _cells(rows: Rows) -> Iterator[Finding]:
    first: dict[str, int] = {}
    splits: dict[str, tuple[int, str]] = {}
    for line, row in rows:
        for column in ("exam_id", "patient_id"):
            if not row[column]:
                yield _at(line, row, "rows", f"{column} is empty")
        if first.setdefault(row["exam_id"], line) != line and row["exam_id"]:
            yield _at(line, row, "rows", f"exam_id stands in line {first[row['exam_id']]} already")
        split = row.get("split", "")
        other, theirs = splits.setdefault(row["patient_id"], (line, split))
        if theirs != split:
            yield _at(
                line, row, "rows", f"split is {split!r}, in line {other} {theirs!r} for the same patient"
            )


def _ids(rows: Rows) -> Iterator[Finding]:
    lines: dict[str, tuple[int, Mapping[str, str]]] = {}
    for line, row in rows:
        if row["patient_id"]:
            lines.setdefault(row["patient_id"], (line, row))
    for group in look_alikes(lines):
        line, row = lines[group[0]]
        yield _at(
            line, row, "ids", f"{' and '.join(map(repr, group))} differ in zeros, case or separators only"
        )


def _sides(rows: Rows, images: Sequence[str]) -> Iterator[Finding]:
    """The column against the names of exam and files, and those against each other."""
    for line, row in rows:
        said = {"the column": WORDS["side"].get(row.get("side", "").casefold(), "")}
        said["exam_id"] = side_in(row["exam_id"])
        for image in images:
            said[f"{image}_path"] = side_in(PurePosixPath(row[f"{image}_path"]).stem)
        words = {who: side for who, side in said.items() if side}
        if len(set(words.values())) > 1:
            text = ", ".join(f"{who} says {side}" for who, side in words.items())
            yield _at(line, row, "side", text)


def side_in(name: str) -> str:
    """The side that words of a name tell; empty where none or both do."""
    words = re.split(r"[^A-Za-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name))
    sides = {side for word in words if (side := WORDS["side"].get(word.casefold(), ""))}
    return sides.pop() if len(sides) == 1 else ""


def _twice(rows: Rows) -> Iterator[Finding]:
    first: dict[tuple[str, ...], int] = {}
    for line, row in rows:
        key = tuple(row.get(column, "") for column in JOINT)
        if not row.get("visit") or not row.get("joint"):
            continue
        if first.setdefault(key, line) != line:
            yield _at(line, row, "twice", f"the joint of line {first[key]} again", problem=False)
