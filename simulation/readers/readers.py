"""What a table of readings says: each reader and their average, without and with assistance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation import readers as evaluation
from common.evaluation.readers import ReaderMetric
from common.scoring import eoss
from common.training.data import MISSING
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
        unpaired: reader -> exams that he graded in one of two conditions only; they are left out.
    """

    readers: tuple[str, ...]
    exams: tuple[int, ...]
    patients: int
    rows: tuple[ReaderMetric, ...]
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
            f"({', '.join(readings.conditions)}), got none among {len(readings.table)} readings; "
            f"{len(readings.unreferenced)} exams have no reference."
        )
    return usable


def _measure(readings: Readings, name: str, seed: int) -> Measured:
    frame, unpaired = _complete(readings, name)
    names, reader = np.unique(frame["reader"].to_numpy(dtype=str), return_inverse=True)
    patients, patient = np.unique(frame["patient"].to_numpy(dtype=str), return_inverse=True)
    if not len(frame):
        return Measured(readers=(), exams=(), patients=0, rows=(), unpaired=unpaired)
    counts = {}
    for condition in readings.conditions:
        use = (frame["condition"] == condition).to_numpy()
        counts[condition] = evaluation.reader_confusions(
            frame.loc[use, f"truth_{name}"].to_numpy(),
            frame.loc[use, name].to_numpy(),
            reader=reader[use],
            patient=patient[use],
            grades=eoss.GRADES,
            readers=len(names),
            patients=len(patients),
        )
    draws, swaps = (np.random.default_rng([seed, part]) for part in range(2))
    weights = bootstrap.resamples(len(patients), replicates=REPLICATES, generator=draws)
    return Measured(
        readers=tuple(names.tolist()),
        exams=tuple(counts[readings.conditions[0]].sum(axis=(1, 2, 3)).tolist()),
        patients=len(patients),
        rows=tuple(evaluation.rows(counts, weights=weights, generator=swaps)),
        unpaired=unpaired,
    )


def _complete(readings: Readings, name: str) -> tuple[pd.DataFrame, dict[str, tuple[str, ...]]]:
    """The readings that were graded, with reference, in every condition; and, by reader, the other exams."""
    frame = readings.table
    frame = frame[(frame[name] != MISSING) & (frame[f"truth_{name}"] != MISSING)]
    read = frame.groupby(["reader", "exam_id"])["condition"].transform("size")
    whole = read == len(readings.conditions)
    left = {str(reader): tuple(part["exam_id"]) for reader, part in frame[~whole].groupby("reader")}
    return frame[whole], left
