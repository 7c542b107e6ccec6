"""Cross-validation: what each fold's networks made of its patients, and the mean (SD) over folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from common.evaluation.agreement import METRICS
from common.exam import MISSING
from simulation.evaluation.scorer import CORRELATIONS, Block, Patients, Scorer, grades_in, likeliness


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


def of_patients(scorer: Scorer, frame: pd.DataFrame) -> Block:
    """The same of diagnoses by patient: the networks' probabilities averaged over a patient's scans.

    A patient's scans are not independent, and their mean says much more than one of them: the two are not to be
    compared. A grade is a joint's own, so patients have none. Where folds judge no patient is in two of them.

    Args:
        scorer: as of :func:`block`.
        frame: predictions with a column ``fold``.

    Returns:
        As :func:`block`, with ``patients`` and the ``confusion`` of all folds together beside the metrics.
    """
    diagnoses = [name for name in scorer.settings.diagnoses if name in scorer.graded]
    found: Block = {}
    for name in diagnoses:
        one = replace(scorer, graded=(name,))
        patients = _patients(one, frame, name)
        if len(patients):
            tally = one.tally(patients, Patients.of(patients))[name].sum(axis=0)
            metrics = block(one, patients)[name]
            assert isinstance(metrics, dict)
            found[name] = {**metrics, "patients": len(patients), "confusion": tally.tolist()}
    return found


def _patients(scorer: Scorer, frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row a patient who has the diagnosis: mean probabilities, and what is likeliest by them."""
    reference = f"{scorer.source}_{name}"
    graded = frame[grades_in(frame, reference) != MISSING]
    networks = [c for c in map(str, frame) if c.startswith("p:") and name in c.removeprefix("p:").split("/")]
    rows = graded.groupby(["site", "patient_id", "fold"], sort=True, as_index=False).agg(
        {reference: "first", **dict.fromkeys(networks, "mean")}
    )
    scores = likeliness(rows, name, grades=scorer.grades()[name])
    if scores is None or not len(rows):
        return rows.iloc[:0]
    return rows.assign(**{f"decision_{name}": scores.argmax(axis=1)})


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
