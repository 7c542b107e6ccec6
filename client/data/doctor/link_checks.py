"""Whether the machine tells the diagnosis or a grade: then networks may learn the machine in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from client.data.doctor.findings import Finding
from client.data.doctor.grade_checks import BESIDE
from client.data.tables.rows import MOST_GRADES, Table, grade
from common.errors import DataError
from common.exam import consensus

Rows = Sequence[tuple[int, Mapping[str, str]]]


def link_findings(rows: Rows, grades: Table | None) -> Iterator[Finding]:
    """A finding for the diagnosis and for each measurement that goes with the machine.

    Args:
        rows: of the manifest.
        grades: the table of grades, ``None`` where there is none.
    """
    from common.evaluation import confounding  # noqa: PLC0415  NumPy

    patients = [row["patient_id"] for _, row in rows]
    machines = [row.get("device", "") for _, row in rows]
    targets = {"diagnosis": {row["exam_id"]: row.get("diagnosis", "") for _, row in rows}, **_medians(grades)}
    for name, values in targets.items():
        found = confounding.link(patients, machines, [values.get(row["exam_id"], "") for _, row in rows])
        if found is not None and found.notable:
            yield Finding(
                check="linked",
                problem=False,
                line=0,
                exam_id="",
                what=confounding.sentence(found, one="the machine", other=name),
            )


def _medians(grades: Table | None) -> dict[str, dict[str, str]]:
    """Measurement -> exam -> the median of its readers' grades, as text; what is no grade is left out."""
    given: dict[str, dict[str, list[tuple[str, int]]]] = {}
    if grades is None:
        return {}
    for name in (column for column in grades.columns if column and column not in BESIDE):
        for _, row in grades.rows:
            try:
                cell = grade(row[name], MOST_GRADES)
            except DataError:
                continue
            if cell:
                given.setdefault(name, {}).setdefault(row["exam_id"], []).append(("", int(cell)))
    return {
        name: {exam: str(consensus(values, "median")) for exam, values in exams.items()}
        for name, exams in given.items()
    }
