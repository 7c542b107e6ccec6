"""Agreement of predicted with reference grades, from confusion matrices.

Rows are the reference, columns the prediction. Every function takes a stack of matrices ``(..., grades,
grades)`` and gives one number a matrix, so that a thousand bootstrap replicates are one call; a single matrix
gives a single number. Entries are counts, or weights of any scale.

What cannot be computed is nan:

=========================================  ========  =====  ====================  ========
case                                       accuracy  kappa  balanced accuracy     Spearman
=========================================  ========  =====  ====================  ========
no exams                                   nan       nan    nan                   nan
one grade only, in reference and answer    1         nan    1                     nan
one grade only, in one of them             as usual  0      as usual              nan
a grade that never occurs as reference     as usual  usual  left out of the mean  usual
=========================================  ========  =====  ====================  ========
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64, Num
from numpy.typing import ArrayLike

from common.errors import DataError

Weights: TypeAlias = Literal["linear", "quadratic"] | None
Values: TypeAlias = Float64[np.ndarray, "*stack"] | float


def confusion(truth: ArrayLike, predicted: ArrayLike, grades: int) -> Int64[np.ndarray, "grades grades"]:
    """Count exams by reference grade (row) and predicted grade (column).

    Args:
        truth: reference grades 0 .. ``grades`` - 1, ``(exams,)``.
        predicted: predicted grades, ``(exams,)``.
        grades: the number of grades.

    Raises:
        DataError: for lengths that differ, or grades that are not whole numbers in range.
    """
    rows, columns = checked_pair(truth, predicted, grades)
    return np.bincount(rows * grades + columns, minlength=grades * grades).reshape(grades, grades)


def accuracy(confusion: ArrayLike) -> Values:
    """Share of exams whose grade is exactly right."""
    matrix = _square(confusion)
    return _divide(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1)))


def balanced_accuracy(confusion: ArrayLike) -> Values:
    """Mean over the grades that occur in the reference of the share that is right (mean recall)."""
    matrix = _square(confusion)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    total = matrix.sum(axis=-1)
    occurs = total > 0
    recall = np.divide(right, total, out=np.zeros_like(right, dtype=np.float64), where=occurs)
    return _divide(recall.sum(axis=-1), occurs.sum(axis=-1))


def kappa(confusion: ArrayLike, weights: Weights = None) -> Values:
    """Cohen's kappa: agreement beyond chance, 1 if perfect, 0 if at chance.

    Args:
        confusion: ``(..., grades, grades)``.
        weights: how much a wrong answer counts: ``None`` all alike; ``linear`` by the distance in grades;
            ``quadratic`` by its square.

    Source:
        Cohen 1960, doi 10.1177/001316446002000104; weighted: Cohen 1968, doi 10.1037/h0026256.
    """
    matrix = _square(confusion)
    cost = _cost(matrix.shape[-1], weights)
    reference, answer = matrix.sum(axis=-1), matrix.sum(axis=-2)
    observed = np.einsum("...jk,jk->...", matrix, cost) * reference.sum(axis=-1)
    expected = ((reference @ cost) * answer).sum(axis=-1)
    return _divide(expected - observed, expected)


def spearman(confusion: ArrayLike) -> Values:
    """Spearman's rank correlation of reference and prediction; grades that are equal have their middle rank.

    Source:
        Kendall 1945, Biometrika 33:239-251 (ties).
    """
    matrix = _square(confusion)
    reference, answer = map(_middle_ranks, (matrix.sum(axis=-1), matrix.sum(axis=-2)))
    return _correlation(np.asarray(matrix), reference, answer)


def pearson(confusion: ArrayLike) -> Values:
    """Pearson's correlation of reference and prediction, grades taken as equally far apart."""
    matrix = np.asarray(_square(confusion))
    total = np.maximum(matrix.sum(axis=(-1, -2)), 1)[..., None]
    grades = np.arange(matrix.shape[-1])
    means = ((matrix.sum(axis=axis) * grades).sum(axis=-1, keepdims=True) / total for axis in (-1, -2))
    reference, answer = (grades - mean for mean in means)
    return _correlation(matrix, reference, answer)


def _correlation(matrix: np.ndarray, reference: ArrayLike, answer: ArrayLike) -> Values:
    """Of deviations from the mean that each grade of reference and prediction stands for."""
    counts = matrix.sum(axis=-1), matrix.sum(axis=-2)
    rows, columns = np.asarray(reference), np.asarray(answer)
    together = (rows * (matrix @ columns[..., None])[..., 0]).sum(axis=-1)
    alone = [
        (np.square(far) * count).sum(axis=-1) for far, count in zip((rows, columns), counts, strict=True)
    ]
    return _divide(together, np.sqrt(alone[0] * alone[1]))


def checked_pair(
    truth: ArrayLike, predicted: ArrayLike, grades: int
) -> tuple[Int64[np.ndarray, " exams"], Int64[np.ndarray, " exams"]]:
    """Both as ``int64`` after the checks of :func:`confusion`."""
    pair = np.asarray(truth), np.asarray(predicted)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        raise DataError(f"Expected grades of one length, got shapes {pair[0].shape} and {pair[1].shape}.")
    for name, array in zip(("truth", "predicted"), pair, strict=True):
        if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= grades):
            raise DataError(
                f"Expected whole numbers in 0..{grades - 1} as {name}, got {array.dtype} in "
                f"{array.min()}..{array.max()}: leave out exams without a grade."
            )
    return pair[0].astype(np.int64), pair[1].astype(np.int64)


def _square(confusion: ArrayLike) -> Num[np.ndarray, "*stack grades grades"]:
    matrix = np.asarray(confusion)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise DataError(f"Expected confusion matrices (..., grades, grades), got shape {matrix.shape}.")
    return matrix


def _middle_ranks(counts: Num[np.ndarray, "*stack grades"]) -> Float64[np.ndarray, "*stack grades"]:
    """Each grade's middle rank, less the mean of all ranks."""
    return np.asarray(np.cumsum(counts, axis=-1) - (counts + counts.sum(axis=-1, keepdims=True)) / 2)


def _cost(grades: int, weights: Weights) -> Float64[np.ndarray, "grades grades"]:
    distance = np.abs(np.subtract.outer(np.arange(grades), np.arange(grades))).astype(np.float64)
    match weights:
        case None:
            return (distance > 0).astype(np.float64)
        case "linear":
            return distance
        case "quadratic":
            return np.square(distance)
    raise DataError(f'Expected weights None, "linear" or "quadratic", got {weights!r}.')


def _divide(part: ArrayLike, whole: ArrayLike) -> Values:
    """``part / whole``, nan where ``whole`` is 0; a plain number for a single matrix."""
    numerator, denominator = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    result = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result if result.ndim else float(result)


METRICS: Mapping[str, Callable[[ArrayLike], Values]] = {
    "accuracy": accuracy,
    "kappa_linear": partial(kappa, weights="linear"),
    "kappa_quadratic": partial(kappa, weights="quadratic"),
    "balanced_accuracy": balanced_accuracy,
}
"""By which systems are compared, by the names that they have in ``metrics.json``."""
