"""A reader study as JSON and as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from common.evaluation.bootstrap import Estimate
from common.evaluation.paired import PERMUTATIONS, Comparison
from common.evaluation.readers import CONDITIONS, ReaderMetric
from common.text import csv_text
from common.text.csv_text import Cell
from simulation.readers.findings import AVERAGE, Finding
from simulation.readers.readers import REPLICATES, Measured, Study
from simulation.readers.readers_view import AMONG, notices
from simulation.readers.readings import Readings

_COLUMNS = (
    "kind", "measurement", "metric", "reader", "exams", "patients",
    *(f"{part}_{end}" for part in (*CONDITIONS, "difference") for end in ("value", "low", "high")),
    "p", "p_holm", "p_signed_rank",
)  # fmt: skip
_FINDING = tuple(field.name for field in fields(Finding))


def content(readings: Readings, study: Study) -> dict[str, object]:
    """A study as JSON values; ``None`` for what cannot be computed."""
    return {
        "kind": readings.kind,
        "notice": notices(readings),
        "unit": readings.unit,
        "conditions": list(readings.conditions),
        "measurements": {name: _block(measured) for name, measured in study.measurements.items()},
        "times": _found(study.times),
        "session": "first" if readings.sessions > 1 else None,
        "left_out": {
            "impossible": list(readings.impossible),
            "without_reference": list(readings.unreferenced),
            "one_condition_only": {
                name: {reader: list(exams) for reader, exams in measured.unpaired.items()}
                for name, measured in study.measurements.items()
            },
        },
        "replicates": REPLICATES,
        "permutations": PERMUTATIONS,
    }


def csv(readings: Readings, study: Study) -> str:
    """One row per measurement, metric and reader; the first of each metric is the average.

    The last of a measurement has the readers' agreement among each other.
    """
    return csv_text.table(
        _COLUMNS,
        (
            (readings.kind, name, *cells)
            for name, measured in study.measurements.items()
            for cells in (*(_cells(row, measured) for row in measured.rows), *_among(measured))
        ),
    )


def _block(measured: Measured) -> dict[str, object]:
    average = {row.metric: _entry(row) for row in measured.rows if row.reader is None}
    each = {
        name: {row.metric: _entry(row) for row in measured.rows if row.reader == index}
        for index, name in enumerate(measured.readers)
    }
    exams = dict(zip(measured.readers, measured.exams, strict=True))
    among = {condition: _json(value) for condition, value in measured.icc.items()}
    return {
        "patients": measured.patients,
        "exams": exams,
        "average": average,
        "readers": each,
        "among_readers": {"exams": measured.shared, "icc": among},
        "findings": _found(measured.findings),
        "not_computed": dict(measured.refused),
    }


def _found(findings: Sequence[Finding]) -> list[dict[str, object]]:
    return [dict(zip(_FINDING, _finding(one), strict=True)) for one in findings]


def _finding(one: Finding) -> tuple[Cell, ...]:
    """In the order of a finding's own fields."""
    return tuple(_plain(value) if isinstance(value, float) else value for value in asdict(one).values())


def findings_csv(readings: Readings, study: Study) -> str:
    """One row per finding; those of times have no measurement."""
    of = {name: measured.findings for name, measured in study.measurements.items()} | {"": study.times}
    return csv_text.table(
        ("kind", "measurement", *_FINDING),
        ((readings.kind, name, *_finding(one)) for name, found in of.items() for one in found),
    )


def _entry(row: ReaderMetric) -> dict[str, object]:
    entry: dict[str, object] = {condition: _json(value) for condition, value in row.conditions.items()}
    if row.difference is None:
        return entry
    more = {"p_holm": row.p_holm, "p_signed_rank": row.p_signed_rank}
    tested = {"p": row.difference.p} | {name: p for name, p in more.items() if p is not None}
    return entry | {"difference": _json(row.difference) | {name: _plain(p) for name, p in tested.items()}}


def _json(estimate: Estimate | Comparison) -> dict[str, object]:
    return {"value": _plain(estimate.value), "ci95": [_plain(estimate.low), _plain(estimate.high)]}


def _cells(row: ReaderMetric, measured: Measured) -> tuple[Cell, ...]:
    exams = sum(measured.exams) if row.reader is None else measured.exams[row.reader]
    parts = (*(row.conditions.get(condition) for condition in CONDITIONS), row.difference)
    p = None if row.difference is None else row.difference.p
    numbers = (number for part in parts for number in _numbers(part))
    return (
        row.metric,
        reader_name(row, measured),
        exams,
        measured.patients,
        *map(_plain, (*numbers, p, row.p_holm, row.p_signed_rank)),
    )


def _among(measured: Measured) -> Iterator[tuple[Cell, ...]]:
    if measured.icc:
        parts = (*(measured.icc.get(condition) for condition in CONDITIONS), None)
        numbers = (number for part in parts for number in _numbers(part))
        exams = measured.shared * len(measured.readers)
        yield (
            "icc_among_readers",
            AMONG,
            exams,
            measured.patients,
            *map(_plain, (*numbers, None, None, None)),
        )


def _numbers(estimate: Estimate | Comparison | None) -> tuple[float | None, ...]:
    return (None,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)


def reader_name(row: ReaderMetric, measured: Measured) -> str:
    """Whose figures a row has."""
    return AVERAGE if row.reader is None else measured.readers[row.reader]


def condition_value(row: ReaderMetric, condition: str) -> float | None:
    """A row's figure in one condition; ``None`` where it has none."""
    return _plain(row.conditions[condition].value) if condition in row.conditions else None


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
