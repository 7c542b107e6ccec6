"""Intraclass correlation of one rater: ICC(2,1), absolute agreement, and ICC(3,1), consistency.

The share of the variance of grades that is the exams'; the rest is what raters differ in, on average and from exam to
exam. A rater who grades everybody one grade higher agrees less, which a correlation would not see. ICC(3,1) takes the
raters for all there are, and forgives what they differ in on average.

Intervals are bootstraps over patients, as all intervals here; that of Shrout and Fleiss, by the F distribution, takes
grades for normal and exams for independent.

============================================  =====
case                                          ICC
============================================  =====
fewer than two exams or two raters            nan
all grades are the same                       nan
raters differ more than exams                 < 0
============================================  =====

Source: Shrout and Fleiss 1979, doi 10.1037/0033-2909.86.2.420: ICC(2,1) and ICC(3,1), with BMS, JMS and EMS as there.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, Integer, Num
from numpy.typing import ArrayLike

from common.evaluation import bootstrap
from common.evaluation.agreement import Values
from common.evaluation.bootstrap import Estimate


def icc(confusion: ArrayLike) -> Values:
    """ICC(2,1) of reference and prediction, from confusion matrices ``(..., grades, grades)``."""
    matrix = np.asarray(confusion)
    cells = np.argwhere(np.ones(matrix.shape[-2:], dtype=bool))
    counts = matrix.reshape(*matrix.shape[:-2], len(cells))
    result = _icc(counts @ _summands(cells))
    return result if result.ndim else float(result)


def raters_icc(
    grades: Num[np.ndarray, "exams raters"],
    patient: Integer[np.ndarray, " exams"],
    weights: Int64[np.ndarray, "replicates patients"],
    *,
    of: Literal["agreement", "consistency"] = "agreement",
) -> Estimate:
    """ICC(2,1), or of consistency ICC(3,1), of several raters who graded the same exams.

    Raters are taken as they are, patients are drawn.

    Args:
        grades: one column a rater.
        patient: index 0 .. patients - 1 of each exam's patient.
        weights: from ``bootstrap.resamples``.
        of: what is asked for.
    """
    by_patient = np.zeros((weights.shape[1], 3 + grades.shape[1]))
    np.add.at(by_patient, patient, _summands(grades))
    every = np.ones((1, len(by_patient)))
    value, *replicates = _icc(np.concatenate([every, weights]) @ by_patient, offsets=of == "agreement")
    return bootstrap.summary(float(value), replicates)


def _summands(grades: Num[np.ndarray, "exams raters"]) -> Float64[np.ndarray, "exams columns"]:
    """What an exam adds to the sums of a table: 1, its grades squared, their sum squared, and each grade."""
    parts = np.ones(len(grades)), np.square(grades).sum(axis=1), np.square(grades.sum(axis=1)), grades
    return np.column_stack(parts).astype(np.float64)


def _icc(
    sums: Float64[np.ndarray, "*stack columns"], *, offsets: bool = True
) -> Float64[np.ndarray, "*stack"]:
    """The correlation of each table of sums; ``offsets``: what raters differ in on average counts against them."""
    exams, squares, exam_squares, raters = sums[..., 0], sums[..., 1], sums[..., 2], sums[..., 3:]
    count = raters.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.square(raters.sum(axis=-1)) / (count * exams)
        of_exams = exam_squares / count - mean
        of_raters = np.square(raters).sum(axis=-1) / exams - mean
        bms, jms = of_exams / (exams - 1), of_raters / np.float64(count - 1)
        ems = (squares - mean - of_exams - of_raters) / ((exams - 1) * np.float64(count - 1))
        whole = bms + (count - 1) * ems + offsets * count * (jms - ems) / exams
        return np.asarray(np.where(whole > _NOTHING, (bms - ems) / whole, np.nan))


_NOTHING = 1e-9
"""A variance of grades that is 0 on paper."""
