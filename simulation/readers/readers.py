"""What a table of readings says: each reader and their average, without and with assistance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation import readers as evaluation
from common.evaluation.bootstrap import Estimate
from common.evaluation.intraclass import raters_icc
from common.evaluation.readers import ReaderMetric
from common.exam import MISSING
from common.scoring import eoss
from simulation.readers.readings import Readings

REPLICATES = 1000
"""Of the bootstrap, as in the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is found for one measurement.

    Attributes:
        readers: names, to which ``ReaderMetric.reader`` points.
        exams: of each reader: those that he graded in every condition.
        patients: of all of them together; exams where patients are not named.
        rows: the figures.
        shared: exams that all of them graded.
        icc: condition -> ICC(2,1) of the readers among each other, on these exams; empty for one reader.
        unpaired: reader -> exams that he graded in one of two conditions only; they are left out.
    """

    readers: tuple[str, ...]
    exams: tuple[int, ...]
    patients: int
    rows: tuple[ReaderMetric, ...]
    shared: int
    icc: Mapping[str, Estimate]
    unpaired: dict[str, tuple[str, ...]]


def measure(readings: Readings, *, seed: int) -> dict[str, Measured]:
    """Score a study: each measurement that has readings to score.

    Args:
        readings: from ``readings.read``.
        seed: of bootstrap and permutations.

    Raises:
        DataError: if no reading can be used.
    """
    found = {name: _measure(readings, name, seed) for name in readings.measurements}
    usable = {name: measured for name, measured in found.items() if measured.readers}
    if not usable:
        raise DataError(
            "Expected exams with a reference that a reader graded in every condition "
            f"({', '.join(readings.conditions)}), got none among {len(readings.table['reader'])} readings; "
            f"{len(readings.unreferenced)} exams have no reference."
        )
    return usable


def _measure(readings: Readings, name: str, seed: int) -> Measured:
    table, unpaired = _complete(readings, name)
    names, reader = np.unique(table["reader"].astype(str), return_inverse=True)
    patients, patient = np.unique(table["patient"].astype(str), return_inverse=True)
    if not len(names):
        return Measured(readers=(), exams=(), patients=0, rows=(), shared=0, icc={}, unpaired=unpaired)
    counts = {}
    for condition in readings.conditions:
        use = table["condition"] == condition
        counts[condition] = evaluation.reader_confusions(
            table[f"truth_{name}"][use],
            table[name][use],
            reader=reader[use],
            patient=patient[use],
            grades=eoss.GRADES,
            readers=len(names),
            patients=len(patients),
        )
    draws, swaps = (np.random.default_rng([seed, part]) for part in range(2))
    weights = bootstrap.resamples(len(patients), replicates=REPLICATES, generator=draws)
    shared, among = _among(table, name, reader, patient, readings.conditions)
    return Measured(
        readers=tuple(names.tolist()),
        exams=tuple(counts[readings.conditions[0]].sum(axis=(1, 2, 3)).tolist()),
        patients=len(patients),
        rows=tuple(evaluation.rows(counts, weights=weights, generator=swaps)),
        shared=len(shared),
        icc={condition: raters_icc(grades, shared, weights) for condition, grades in among.items()},
        unpaired=unpaired,
    )


def _among(
    table: Mapping[str, np.ndarray],
    name: str,
    reader: np.ndarray,
    patient: np.ndarray,
    conditions: tuple[str, ...],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Exams that all readers graded, if there are several: patient of each, grades by condition and reader."""
    if reader.max() == 0:
        return np.zeros(0, dtype=np.int64), {}
    exams, first, exam = np.unique(table["exam_id"].astype(str), return_index=True, return_inverse=True)
    grades = {}
    for condition in conditions:
        use = table["condition"] == condition
        grades[condition] = np.full((len(exams), reader.max() + 1), MISSING)
        grades[condition][exam[use], reader[use]] = table[name][use]
    whole = (grades[conditions[0]] != MISSING).all(axis=1)  # in one condition, so in every one
    return patient[first][whole], {condition: found[whole] for condition, found in grades.items()}


def _complete(readings: Readings, name: str) -> tuple[Mapping[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """The readings that were graded, with reference, in every condition; and, by reader, the other exams."""
    graded = (readings.table[name] != MISSING) & (readings.table[f"truth_{name}"] != MISSING)
    table = {column: values[graded] for column, values in readings.table.items()}
    read = list(zip(table["reader"], table["exam_id"], strict=True))
    times = Counter(read)
    whole = np.array([times[one] == len(readings.conditions) for one in read], dtype=bool)
    alone = [one for one, kept in zip(read, whole, strict=True) if not kept]
    left = {
        who: tuple(exam for reader, exam in alone if reader == who)
        for who in sorted({one[0] for one in alone})
    }
    return {column: values[whole] for column, values in table.items()}, left
