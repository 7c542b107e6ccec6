"""How well each kind of patient and joint is graded: the run's own answers by joint, machine, site, age and sex."""

from __future__ import annotations

import pandas as pd

from common.evaluation.inside import site_statistics
from simulation.evaluation.scorer import Block, Patients, Scorer

TOLD = ("joint", "age", "sex")
"""What a manifest may tell of an exam, beside machine and site."""
COLUMNS = ("joint", "device", "site", "age", "sex")
"""By what exams are grouped; ages by decade."""
FEW = 10
"""Patients: an interval over fewer says little, and such groups are marked."""
UNKNOWN = "not known"
METRICS = ("accuracy", "kappa_linear")


def block(scorer: Scorer, frame: pd.DataFrame) -> Block:
    """Metrics of every group of some exams.

    Args:
        scorer: says what is right.
        frame: of predictions, see :func:`simulation.evaluation.metrics.metrics`.

    Returns:
        Column -> value -> ``exams, patients, few`` and each score's :data:`METRICS` with intervals over patients. A
        column of which nothing is known is left out; exams that lack what others have are the group ``UNKNOWN``.
    """
    found: Block = {}
    for column in COLUMNS:
        if column in frame and (values := _values(frame[column], column)).ne(UNKNOWN).any():
            found[column] = {str(name): _group(scorer, part) for name, part in frame.groupby(values)}
    return found


def _values(values: pd.Series, column: str) -> pd.Series:
    if column == "age":
        return values.map(lambda age: UNKNOWN if pd.isna(age) else site_statistics.decade(int(age)))
    return values.map(lambda value: UNKNOWN if pd.isna(value) or not str(value) else str(value))


def _group(scorer: Scorer, part: pd.DataFrame) -> Block:
    patients = Patients.of(part)
    weights = scorer.weights(patients)
    sizes: Block = {"exams": len(part), "patients": len(patients), "few": len(patients) < FEW}
    return {**sizes, **scorer.block([scorer.tally(part, patients)], weights, metrics=METRICS)}
