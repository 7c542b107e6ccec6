"""What a table of readings says: each reader and their average, without and with assistance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation import readers as evaluation
from common.evaluation.bootstrap import Estimate
from common.evaluation.intraclass import raters_icc
from common.evaluation.readers import ReaderMetric
from common.exam import MISSING
from common.scoring import eoss
from simulation.readers import findings as parts
from simulation.readers.findings import Finding, Scored
from simulation.readers.readings import Readings, counted
from simulation.readers.times import times

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
        findings: the ensemble, agreement, other readers, habits.
        refused: part of the study -> why it cannot be computed.
    """

    readers: tuple[str, ...]
    exams: tuple[int, ...]
    patients: int
    rows: tuple[ReaderMetric, ...]
    shared: int
    icc: Mapping[str, Estimate]
    unpaired: dict[str, tuple[str, ...]]
    findings: tuple[Finding, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All that a table of readings says.

    Attributes:
        measurements: that have readings to score.
        times: how long readings took; empty where that is not told.
    """

    measurements: Mapping[str, Measured]
    times: tuple[Finding, ...]


def measure(readings: Readings, *, seed: int) -> Study:
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
    return Study(measurements=usable, times=times(readings, seed=seed))


def _measure(readings: Readings, name: str, seed: int) -> Measured:
    whole, unpaired = _complete(readings, name)
    scored = _scored(readings, name, whole)
    if not scored.readers:
        return Measured(readers=(), exams=(), patients=0, rows=(), shared=0, icc={}, unpaired=unpaired)
    counts = {}
    for condition in readings.conditions:
        use = scored.table["condition"] == condition
        counts[condition] = evaluation.reader_confusions(
            scored.table[f"truth_{name}"][use],
            scored.table[name][use],
            reader=scored.reader[use],
            patient=scored.patient[use],
            grades=eoss.GRADES,
            readers=len(scored.readers),
            patients=scored.patients,
        )
    draws, swaps, more = (np.random.default_rng([seed, part]) for part in range(3))
    weights = bootstrap.resamples(scored.patients, replicates=REPLICATES, generator=draws)
    shared, among = _among(scored)
    findings, refused = _findings(readings, scored, weights, more)
    return Measured(
        readers=scored.readers,
        exams=tuple(counts[readings.conditions[0]].sum(axis=(1, 2, 3)).tolist()),
        patients=scored.patients,
        rows=tuple(evaluation.rows(counts, weights=weights, generator=swaps)),
        shared=len(shared),
        icc={condition: raters_icc(grades, shared, weights) for condition, grades in among.items()},
        unpaired=unpaired,
        findings=findings,
        refused=refused,
    )


def _scored(readings: Readings, name: str, use: np.ndarray) -> Scored:
    table = {column: values[use] for column, values in readings.table.items()}
    names, reader = np.unique(table["reader"].astype(str), return_inverse=True)
    patients, patient = np.unique(table["patient"].astype(str), return_inverse=True)
    return Scored(
        name=name,
        table=table,
        conditions=readings.conditions,
        readers=tuple(names.tolist()),
        reader=reader,
        patients=len(patients),
        patient=patient,
    )


def _findings(
    readings: Readings, scored: Scored, weights: np.ndarray, generator: np.random.Generator
) -> tuple[tuple[Finding, ...], dict[str, str]]:
    graded = readings.table[scored.name] != MISSING
    once, again = (counted(readings.table, graded, time=time) for time in (1, 2))
    twice = [_scored(readings, scored.name, use) for use in (_of_same(readings, once, again), again)]
    draws = bootstrap.resamples(twice[0].patients, replicates=REPLICATES, generator=generator)
    every = _scored(readings, scored.name, once)
    found: list[Finding] = []
    refused = {}
    ways: dict[str, Callable[[], Iterator[Finding]]] = {
        parts.ALONE: lambda: parts.ensemble(scored, weights),
        parts.AGAINST: lambda: parts.against(scored, weights, generator),
        parts.BETWEEN: lambda: parts.between(scored, weights),
        parts.WITHIN: lambda: parts.within(twice, draws),
        parts.CROSSED: lambda: parts.crossed(scored),
        parts.HABITS: lambda: parts.severity(every),
    }
    for part, way in ways.items():
        try:
            found += way()
        except DataError as error:
            refused[part] = str(error)
    return tuple(found), refused


def _of_same(readings: Readings, use: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of some rows those whose reader, exam and condition are those of another row."""
    keys = list(zip(*(readings.table[column] for column in ("reader", "exam_id", "condition")), strict=True))
    wanted = {keys[row] for row in np.flatnonzero(others)}
    return np.asarray(use & np.array([key in wanted for key in keys], dtype=bool))


def _among(scored: Scored) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Exams that all readers graded, if there are several: patient of each, grades by condition and reader."""
    if len(scored.readers) == 1:
        return np.zeros(0, dtype=np.int64), {}
    grids = {condition: scored.grid(condition) for condition in scored.conditions}
    grades, patient = next(iter(grids.values()))
    whole = (grades != MISSING).all(axis=1)  # in one condition, so in every one
    return patient[whole], {condition: found[whole] for condition, (found, _) in grids.items()}


def _complete(readings: Readings, name: str) -> tuple[np.ndarray, dict[str, tuple[str, ...]]]:
    """Rows that count, which are graded, with reference, in every condition; and, by reader, the other exams.

    Of an exam that a reader graded in several sessions the first one counts.
    """
    graded = (readings.table[name] != MISSING) & (readings.table[f"truth_{name}"] != MISSING)
    use = counted(readings.table, graded)
    read = list(zip(readings.table["reader"], readings.table["exam_id"], strict=True))
    times_read = Counter(read[row] for row in np.flatnonzero(use))
    whole = np.array([times_read[one] == len(readings.conditions) for one in read], dtype=bool)
    alone = [read[row] for row in np.flatnonzero(use & ~whole)]
    left = {
        who: tuple(exam for reader, exam in alone if reader == who)
        for who in sorted({one[0] for one in alone})
    }
    return use & whole, left
