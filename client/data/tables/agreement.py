"""How well a site's readers agree, for ``check``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from client.data.tables.tables import Reading
from common.evaluation import agreement
from common.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderAgreement:
    """Two readers on one measurement.

    Attributes:
        exams: how many both graded.
        kappa_linear: linearly weighted kappa; nan where it cannot be computed.
        kappa_quadratic: quadratically weighted kappa.
    """

    measurement: str
    readers: tuple[str, str]
    exams: int
    kappa_linear: float
    kappa_quadratic: float


def reader_agreement(readings: Sequence[Reading], settings: Settings) -> tuple[ReaderAgreement, ...]:
    """Weighted kappa of every pair of readers, on the exams that both graded (each reader's first grade)."""
    results = []
    for name, measurement in settings.measurements.items():
        if measurement.column:
            continue
        given: dict[str, dict[str, int]] = {}
        for reading in readings:
            grade = reading.grades[name]
            if grade is not None and not reading.settles:
                given.setdefault(reading.reader, {}).setdefault(reading.exam_id, grade)
        for one, other in combinations(sorted(given), 2):
            both = sorted(given[one].keys() & given[other].keys())
            table = agreement.confusion(
                [given[one][exam] for exam in both],
                [given[other][exam] for exam in both],
                measurement.grades,
            )
            results.append(
                ReaderAgreement(
                    measurement=name,
                    readers=(one, other),
                    exams=len(both),
                    kappa_linear=float(agreement.kappa(table, "linear")),
                    kappa_quadratic=float(agreement.kappa(table, "quadratic")),
                )
            )
    return tuple(results)
