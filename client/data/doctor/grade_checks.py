"""What is wrong with the readers' grades."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from client.data.doctor.findings import Finding, Kind
from client.data.tables.rows import MOST_GRADES, Table, grade
from client.ledger.identifiers import respelled
from common.errors import DataError
from common.scoring import eoss

BESIDE = ("exam_id", "reader", "session", "patient_id")
HYPERTROPHY, VASCULARITY = "hypertrophy", "vascularity"
FAR_APART = 2
Rows = Sequence[tuple[int, Mapping[str, str]]]


def findings(rows: Rows, grades: Table | None) -> Iterator[Finding]:
    """Contradictions, impossible pairs, and exams and grades without one another.

    Args:
        rows: of the manifest.
        grades: the table of grades, ``None`` where there is none.
    """
    if grades is None:
        return
    measurements = [column for column in grades.columns if column and column not in BESIDE]
    first: dict[tuple[str, ...], tuple[int, dict[str, int]]] = {}
    given: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for line, row in grades.rows:
        known: dict[str, int] = {}
        for name in measurements:
            try:
                cell = grade(row[name], 4 if name in (HYPERTROPHY, VASCULARITY) else MOST_GRADES)
            except DataError as error:
                yield _at(line, row, "impossible", f"{name} is {row[name]!r}, {error}")
                continue
            if cell:
                known[name] = int(cell)
                given.setdefault(row["exam_id"], {}).setdefault(name, []).append((line, int(cell)))
        pair = tuple(known[name] for name in (HYPERTROPHY, VASCULARITY) if name in known)
        if len(pair) == 2 and not eoss.is_valid_pair(pair):
            yield _at(line, row, "impossible", f"hypertrophy {pair[0]} with vascularity {pair[1]}")
        key = (row["exam_id"], row["reader"], row.get("session", ""))
        before, theirs = first.setdefault(key, (line, known))
        if before != line and any(theirs.get(name, value) != value for name, value in known.items()):
            yield _at(line, row, "grades", f"the same reader graded otherwise in line {before}")
    yield from _far_apart(given)
    yield from _without(rows, grades, set(given))


def with_flow(grades: Table | None) -> frozenset[str]:
    """Exams in which some reader saw flow."""
    if grades is None or VASCULARITY not in grades.columns:
        return frozenset()
    return frozenset(row["exam_id"] for _, row in grades.rows if _seen(row[VASCULARITY]))


def _seen(text: str) -> bool:
    try:
        return grade(text, MOST_GRADES) not in ("", "0")
    except DataError:
        return True


def _at(line: int, row: Mapping[str, str], check: Kind, what: str) -> Finding:
    return Finding(check=check, problem=True, table="grades", line=line, exam_id=row["exam_id"], what=what)


def _far_apart(given: Mapping[str, Mapping[str, Sequence[tuple[int, int]]]]) -> Iterator[Finding]:
    for exam_id, by_name in given.items():
        for name, cells in by_name.items():
            values = [value for _, value in cells]
            if max(values) - min(values) >= FAR_APART:
                yield Finding(
                    check="grades",
                    problem=False,
                    table="grades",
                    line=cells[0][0],
                    exam_id=exam_id,
                    what=f"readers gave {name} {min(values)} to {max(values)}",
                )


def _without(rows: Rows, grades: Table, graded: set[str]) -> Iterator[Finding]:
    exams = {row["exam_id"] for _, row in rows}
    for line, row in rows:
        if row["exam_id"] not in graded:
            yield Finding(
                check="ungraded",
                problem=False,
                line=line,
                exam_id=row["exam_id"],
                what="no reader gave a grade",
            )
    strays = dict.fromkeys(row["exam_id"] for _, row in grades.rows if row["exam_id"] not in exams)
    respelt = respelled(strays, exams)
    for exam_id in strays:
        like = respelt.get(exam_id)
        yield Finding(
            check="ungraded",
            problem=False,
            table="grades",
            line=0,
            exam_id=exam_id,
            what="is not in the manifest" + (f", but {like!r} is: have zeros been lost?" if like else ""),
        )
