"""Cross-validation: what each fold's networks made of its patients, and the mean (SD) over folds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from common.evaluation.agreement import METRICS
from common.exam import MISSING
from simulation.evaluation.scorer import CORRELATIONS, Block, Patients, Scorer


def block(scorer: Scorer, frame: pd.DataFrame) -> Block:
    """Measurement -> metric -> ``folds`` (one value each), ``mean`` and ``sd`` (with folds - 1) over them.

    ``auc_weighted`` is the mean of one-vs-rest areas over the grades that the fold has, in proportion to their exams;
    of two grades it is the area (:mod:`common.evaluation.one_vs_rest`).

    Args:
        scorer: says what the reference is.
        frame: predictions with a column ``fold``.
    """
    folds = sorted(int(fold) for fold in frame["fold"].unique() if fold != MISSING)
    values: dict[str, dict[str, list[float]]] = {}
    for fold in folds:
        part = frame[frame["fold"] == fold]
        for name, metrics in _one(scorer, part).items():
            for metric, value in metrics.items():
                values.setdefault(name, {}).setdefault(metric, []).append(value)
    return {
        name: {metric: _summary(of_folds) for metric, of_folds in metrics.items()}
        for name, metrics in values.items()
    }


def _one(scorer: Scorer, part: pd.DataFrame) -> Mapping[str, Mapping[str, float]]:
    tally = scorer.tally(part, Patients.of(part))
    areas = scorer.one_vs_rest(part)
    found = {}
    for name, by_patient in tally.items():
        counts = by_patient.sum(axis=0)
        found[name] = {m: float(metric(counts)) for m, metric in {**METRICS, **CORRELATIONS}.items()}
        match areas.get(name):
            case {"prevalence_weighted": {"value": float(value)}}:
                found[name]["auc_weighted"] = value
            case _:
                found[name]["auc_weighted"] = float("nan")
    return found


def _summary(values: list[float]) -> Block:
    known = np.array(values)[np.isfinite(values)]
    return {
        "folds": values,
        "mean": float(known.mean()) if len(known) else None,
        "sd": float(known.std(ddof=1)) if len(known) > 1 else None,
    }
