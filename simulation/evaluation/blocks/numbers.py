"""What an ensemble's numbers are worth: correlation and errors against the truth, or the mean of the readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.stats import rankdata

from client.data.store import Store
from common.ensemble.number_stack import in_units
from common.exam import MISSING
from common.sections.measurements import MeasurementSettings, NumberSettings
from simulation.evaluation.scorer import Block, Patients, Scorer, interval

Values = Float64[np.ndarray, " exams"]


def pearson(first: Values, second: Values, weights: Values) -> float:
    """Pearson's correlation, each exam counted ``weights`` times; NaN where one side does not vary."""
    count = weights.sum()
    a = first - (weights * first).sum() / count
    b = second - (weights * second).sum() / count
    spread = np.sqrt((weights * a * a).sum() * (weights * b * b).sum())
    return float((weights * a * b).sum() / spread) if spread > 0 else float("nan")


def rmse(first: Values, second: Values, weights: Values) -> float:
    """Root of the mean squared difference."""
    return float(np.sqrt((weights * (first - second) ** 2).sum() / weights.sum()))


def mae(first: Values, second: Values, weights: Values) -> float:
    """Mean absolute difference."""
    return float((weights * np.abs(first - second)).sum() / weights.sum())


def bias(first: Values, second: Values, weights: Values) -> float:
    """Mean difference, above zero where the second is larger."""
    return float((weights * (second - first)).sum() / weights.sum())


METRICS: Mapping[str, Callable[[Values, Values, Values], float]] = {
    "pearson": pearson,
    "rmse": rmse,
    "mae": mae,
    "bias": bias,
}


def block(scorer: Scorer, frame: pd.DataFrame) -> Block:
    """Each number's metrics, with intervals over patients, and the same of single networks and of readers.

    Args:
        scorer: says what the reference is, and how patients are drawn.
        frame: predictions (:func:`simulation.evaluation.predict.predictions`).

    Returns:
        Number -> ``exams``, ``pearson``, ``spearman`` (its interval by ranks over all exams), ``rmse``, ``mae`` and
        ``bias`` in the number's unit, ``networks`` and ``readers`` (values without intervals).
    """
    patients = Patients.of(frame)
    draws, number = scorer.weights(patients), patients.number(frame)
    found: Block = {}
    for name in scorer.settings.numbers:
        if f"number_{name}" not in frame:
            continue
        truth = _column(frame, f"{scorer.source}_{name}")
        if scorer.source == "truth" and np.isnan(truth).all():
            truth = _column(frame, f"label_{name}")
        answer = _column(frame, f"number_{name}")
        use = ~np.isnan(truth) & ~np.isnan(answer)
        if not use.any():
            continue
        weights = draws[:, number[use]].astype(np.float64)
        of_name: Block = {"exams": int(use.sum())}
        of_name |= _measured(truth[use], answer[use], weights)
        networks = [c for c in frame if str(c).startswith(f"number_{name}_")]
        of_name["networks"] = [_plain(truth, _column(frame, str(column))) for column in networks]
        prefix, suffix = "reader_", f"_{name}"
        readers = [c for c in map(str, frame) if c.startswith(prefix) and c.endswith(suffix)]
        of_name["readers"] = {
            c.removeprefix(prefix).removesuffix(suffix): _plain(truth, _column(frame, c)) for c in readers
        }
        found[name] = of_name
    return found


def _measured(truth: Values, answer: Values, weights: Float64[np.ndarray, "replicates exams"]) -> Block:
    kept = weights[weights.sum(axis=1) > 0]
    pairs = {name: (metric, truth, answer) for name, metric in METRICS.items()}
    pairs["spearman"] = (pearson, rankdata(truth), rankdata(answer))
    return {
        name: interval(
            metric(a, b, np.ones_like(a)), np.array([metric(a, b, drawn) for drawn in kept], dtype=np.float64)
        )
        for name, (metric, a, b) in pairs.items()
    }


def _plain(truth: Values, answer: Values) -> Block:
    use = ~np.isnan(truth) & ~np.isnan(answer)
    if not use.any():
        return {"exams": 0}
    one = np.ones(int(use.sum()))
    return {"exams": int(use.sum())} | {
        name: metric(truth[use], answer[use], one) for name, metric in METRICS.items()
    }


def _column(frame: pd.DataFrame, name: str) -> Values:
    if name not in frame:
        return np.full(len(frame), np.nan)
    return np.asarray(pd.to_numeric(frame[name], errors="coerce"), dtype=np.float64)


def references(
    store: Store,
    truth: pd.DataFrame | None,
    exam_ids: pd.Series,
    places: NDArray[np.int64],
    numbers: Mapping[str, NumberSettings],
) -> dict[str, object]:
    """Columns of what is known of exams' numbers: ``truth_<n>``, ``label_<n>``, ``reader_<name>_<n>``.

    Args:
        store: of the site.
        truth: rows of the site's ``truth.csv``, one an exam; ``None`` where it has none.
        exam_ids: of the exams.
        places: of them in the store.
        numbers: by name.
    """
    columns: dict[str, object] = {}
    for name, of_range in numbers.items():
        if truth is not None and name in truth:
            columns[f"truth_{name}"] = _column(truth, name)
        shares = store.tensors.numbers[name].numpy()[places].astype(np.float64)
        columns[f"label_{name}"] = in_units(shares, of_range)
        for reader, rows in store.reader_grades.groupby("reader", sort=True):
            one_each = rows.drop_duplicates("exam_id").set_index("exam_id").reindex(exam_ids)
            columns[f"reader_{reader}_{name}"] = _column(one_each, name)
    return columns


def classes(
    columns: Mapping[str, object], measurements: Mapping[str, MeasurementSettings]
) -> dict[str, object]:
    """Columns ``truth_<m>`` of measurements that are the class of a number whose truth is known; -1 where it is not.

    Args:
        columns: of :func:`references`.
        measurements: by name.
    """
    found: dict[str, object] = {}
    for name, graded in measurements.items():
        truth = columns.get(f"truth_{graded.number}") if graded.number else None
        if isinstance(truth, np.ndarray):
            known = ~np.isnan(truth)
            grades = np.searchsorted(graded.edges, np.where(known, truth, 0.0), side="right")
            found[f"truth_{name}"] = np.where(known, grades, MISSING).astype(np.int64)
    return found
