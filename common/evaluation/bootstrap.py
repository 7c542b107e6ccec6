"""Intervals by resampling **patients**, without a loop over replicates.

Exams of one patient are alike, so they are drawn together. Counting exams into one confusion matrix per patient
turns a bootstrap replicate into a weighted sum: with ``weights (replicates, patients)``, all replicates are
one matrix product. Two systems that are weighted alike give a paired difference.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 (resampling units) and 13
(percentile interval).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer
from numpy.typing import ArrayLike

from common.errors import DataError
from common.evaluation.agreement import Values, checked_pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its interval; nan where it cannot be computed.

    Attributes:
        value: from all exams as they are.
        low: 2.5 % quantile of the replicates.
        high: 97.5 % quantile of the replicates.
    """

    value: float
    low: float
    high: float


def resamples(
    patients: int, *, replicates: int, generator: np.random.Generator
) -> Int64[np.ndarray, "replicates patients"]:
    """How often each patient is drawn, with replacement, in each replicate; a row adds up to ``patients``."""
    if patients == 0:
        return np.zeros((replicates, 0), dtype=np.int64)
    return generator.multinomial(patients, np.full(patients, 1 / patients), size=replicates).astype(np.int64)


def patient_confusions(
    truth: ArrayLike,
    predicted: ArrayLike,
    patient: Integer[np.ndarray, " exams"],
    *,
    grades: int,
    patients: int,
) -> Int64[np.ndarray, "patients grades grades"]:
    """One confusion matrix per patient (rows the reference); all zero for a patient without exams.

    Args:
        truth: reference grades 0 .. ``grades`` - 1, ``(exams,)``.
        predicted: predicted grades, ``(exams,)``.
        patient: index 0 .. ``patients`` - 1 of each exam's patient.
        grades: the number of grades.
        patients: the number of patients.

    Raises:
        DataError: for grades or indices out of range or lengths that differ.
    """
    rows, columns = checked_pair(truth, predicted, grades)
    if patient.shape != rows.shape or (patient.size and not 0 <= patient.min() <= patient.max() < patients):
        raise DataError(f"Expected one patient index in 0..{patients - 1} per exam, got {patient.shape}.")
    cells = (patient.astype(np.int64) * grades + rows) * grades + columns
    counts = np.bincount(cells, minlength=patients * grades * grades)
    return counts.astype(np.int64).reshape(patients, grades, grades)


def replicate_confusions(
    per_patient: Int64[np.ndarray, "patients grades grades"],
    weights: Int64[np.ndarray, "replicates patients"],
) -> Float64[np.ndarray, "replicates grades grades"]:
    """The pooled confusion matrix of every replicate."""
    # Counts are far below 2^53, so floating point is exact and uses the fast matrix product.
    grades = per_patient.shape[-1]
    flat = per_patient.reshape(len(per_patient), grades * grades).astype(np.float64)
    return (weights.astype(np.float64) @ flat).reshape(-1, grades, grades)


def estimate(
    metric: Callable[[ArrayLike], Values],
    per_patient: Int64[np.ndarray, "patients grades grades"],
    weights: Int64[np.ndarray, "replicates patients"],
) -> Estimate:
    """A metric of the pooled confusion matrix with its interval.

    Args:
        metric: a function of :mod:`common.evaluation.agreement`, from ``(..., grades, grades)`` to ``(...)``.
        per_patient: from :func:`patient_confusions`.
        weights: from :func:`resamples`.
    """
    value = metric(per_patient.sum(axis=0))
    return summary(float(value), metric(replicate_confusions(per_patient, weights)))


def subsets(count: int) -> Int64[np.ndarray, "subsets count"]:
    """Every way to choose some of ``count`` things, 0 or 1 each, 2**count rows; the first chooses none."""
    return (np.arange(2**count)[:, None] >> np.arange(count)) & 1


def summary(value: float, replicates: ArrayLike) -> Estimate:
    """A value with the 2.5 and 97.5 % quantiles of its replicates, those that are nan left out."""
    drawn = np.asarray(replicates, dtype=np.float64)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn.size else (np.nan, np.nan)
    return Estimate(value=float(value), low=float(low), high=float(high))
