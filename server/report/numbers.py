"""Tables of numbers that networks give, such as a total score, and of what cross-validation says by fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.report import tables
from server.report.content import Content, Json
from server.report.tables import Rows

NUMBERS: Mapping[str, str] = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "rmse": "RMSE",
    "mae": "Mean absolute error",
    "bias": "Mean error",
}
FOLDS: Mapping[str, str] = {
    "auc_weighted": "Weighted AUC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "kappa_linear": "Linear kappa",
    "spearman": "Spearman",
}


def numbers(content: Content) -> tuple[Sequence[str], Rows]:
    """Of each number: the ensemble, and below it each reader."""
    rows: list[tuple[str, Sequence[tuple[str, str]]]] = []
    for where, found in (
        ("", content.metrics.get("numbers")),
        (", unseen", content.metrics.get("numbers_unseen")),
    ):
        for name, block in (found or {}).items():
            rows.append((f"{name}{where}\n{block['exams']} exams", [shown(block[m]) for m in NUMBERS]))
            for reader, one in block["readers"].items():
                if one["exams"]:
                    rows.append(
                        (f"{name}{where}\nreader {reader}", [(_number(one.get(m)), "") for m in NUMBERS])
                    )
    return ("", *NUMBERS.values()), rows


def shown(estimate: Json) -> tuple[str, str]:
    """A value with its interval below it."""
    return _number(estimate["value"]), _bounds(estimate)


def folds(content: Content) -> tuple[Sequence[str], Rows]:
    """Of each measurement: the mean over folds, its standard deviation below it; of diagnoses by patient, too."""
    scans = content.metrics.get("folds") or {}
    patients = content.metrics.get("folds_by_patient") or {}
    named = {**scans, **{f"{name}\nby patient": metrics for name, metrics in patients.items()}}
    rows = [(name, [_mean(metrics.get(metric)) for metric in FOLDS]) for name, metrics in named.items()]
    return ("", *FOLDS.values()), rows


def _mean(of_folds: Json | None) -> tuple[str, str]:
    if not of_folds or of_folds["mean"] is None:
        return tables.NOTHING, ""
    sd = of_folds["sd"]
    return f"{of_folds['mean']:.2f}", "" if sd is None else f"SD {sd:.2f}"


def _number(value: float | None) -> str:
    return tables.NOTHING if value is None else f"{value:.2f}"


def _bounds(estimate: Json) -> str:
    low, high = estimate["ci95"]
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
