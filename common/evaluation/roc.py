"""Binary tasks: the ROC curve and the area under it, and what a cut through the grades gives."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Num
from numpy.typing import ArrayLike

from common.errors import DataError
from common.evaluation.agreement import Values


def curve(
    scores: ArrayLike, labels: ArrayLike, counts: ArrayLike | None = None
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """The ROC curve from (0, 0) to (1, 1), points on a straight line left out.

    Args:
        scores: any finite numbers, ``(scores,)``.
        labels: 0/1 or boolean, ``(scores,)``.
        counts: how many exams have this score and label, ``(scores,)``; ``None``: one each.

    Returns:
        1 - specificity and sensitivity; both empty if a class has no exam.
    """
    from sklearn.metrics import roc_curve  # noqa: PLC0415  commands that need the area alone start without

    y = np.asarray(labels).astype(bool)
    n = np.ones(len(y)) if counts is None else np.asarray(counts, dtype=np.float64)
    if not (n[y].sum() and n[~y].sum()):
        return np.empty(0), np.empty(0)
    false_positive, true_positive, _ = roc_curve(y, np.asarray(scores, dtype=np.float64), sample_weight=n)
    return np.asarray(false_positive, dtype=np.float64), np.asarray(true_positive, dtype=np.float64)


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an exam of class 1 scores higher than one of class 0.

    Args:
        scores: any finite numbers, ``(exams,)``; ties count one half.
        labels: 0/1 or boolean, ``(exams,)``.

    Returns:
        In [0, 1]; nan if a class has no exam.
    """
    ones = np.ones((1, np.asarray(scores).shape[0]))
    return float(weighted_auc(scores, labels, ones)[0])


def weighted_auc(
    scores: ArrayLike, labels: ArrayLike, weights: Num[np.ndarray, "replicates exams"]
) -> Float64[np.ndarray, " replicates"]:
    """The same for many weightings of the exams at once (bootstrap replicates).

    Args:
        scores: ``(exams,)``.
        labels: 0/1 or boolean, ``(exams,)``.
        weights: how often each exam counts, non-negative.

    Raises:
        DataError: for lengths that differ or a score that is not finite.
    """
    p, y = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if p.ndim != 1 or p.shape != y.shape or p.shape != weights.shape[1:]:
        raise DataError(f"Expected one score, label and weight per exam, got {p.shape}, {y.shape}.")
    if not np.isfinite(p).all():
        raise DataError("Expected finite scores, got nan or infinity: leave out exams without a score.")
    if not p.size:
        return np.full(len(weights), np.nan)
    order = np.argsort(p, kind="stable")
    first = np.flatnonzero(np.diff(p[order], prepend=-np.inf))  # where each group of ties begins
    positive = np.add.reduceat(weights[:, order] * y[order], first, axis=1, dtype=np.float64)
    negative = np.add.reduceat(weights[:, order] * ~y[order], first, axis=1, dtype=np.float64)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    result = np.full(len(weights), np.nan)
    np.divide((positive * below).sum(axis=1), pairs, out=result, where=pairs > 0)
    return result


def sensitivity(confusion: ArrayLike, *, cut: int) -> Values:
    """Share of exams with reference grade > ``cut`` whose predicted grade is > ``cut``; nan without any."""
    return _share(np.asarray(confusion)[..., cut + 1 :, :], slice(cut + 1, None))


def specificity(confusion: ArrayLike, *, cut: int) -> Values:
    """Share of exams with reference grade <= ``cut`` whose predicted grade is <= ``cut``; nan without any."""
    return _share(np.asarray(confusion)[..., : cut + 1, :], slice(None, cut + 1))


def youden(confusion: ArrayLike, *, cut: int) -> Values:
    """Youden's index, sensitivity + specificity - 1, for the grades cut above ``cut`` (0|123 is cut 0)."""
    return sensitivity(confusion, cut=cut) + specificity(confusion, cut=cut) - 1


def grades_auc(confusion: ArrayLike, *, cut: int) -> Values:
    """Area under the ROC curve that grades draw (Wilcoxon's), for reference grades cut above ``cut``.

    The chance that an exam with a reference above the cut got a higher grade than one below it, ties counting one
    half; nan without either. Where :func:`youden` cuts reference and grade alike, here all grades are used.
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    positive, negative = matrix[..., cut + 1 :, :].sum(axis=-2), matrix[..., : cut + 1, :].sum(axis=-2)
    below = np.cumsum(negative, axis=-1) - negative / 2
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    whole = np.asarray((positive * below).sum(axis=-1))
    result = np.divide(whole, pairs, out=np.full(whole.shape, np.nan), where=pairs > 0)
    return result if result.ndim else float(result)


def _share(rows: Num[np.ndarray, "*stack some grades"], columns: slice) -> Values:
    right = np.asarray(rows[..., columns].sum(axis=(-2, -1)), dtype=np.float64)
    total = np.asarray(rows.sum(axis=(-2, -1)), dtype=np.float64)
    result = np.divide(right, total, out=np.full(total.shape, np.nan), where=total > 0)
    return result if result.ndim else float(result)
