"""Each grade against all others by scores: areas under the ROC curve, and their means over the grades.

The plain mean counts each grade alike, the other in proportion to how many exams have it in the reference, so that a
rare grade counts little.

===============================================  ================================
case                                             what is nan
===============================================  ================================
a grade that no exam has, or all have            its AUC; left out of both means
no exams, or one grade only                      all
===============================================  ================================

Source: Provost and Domingos 2000, CeDER working paper IS-00-04 (one against the rest, weighted by prevalence); Hand
and Till 2001, doi 10.1023/A:1010920819831 (its plain counterpart, and what weighting by prevalence does).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Integer, Num

from common.evaluation import bootstrap
from common.evaluation.bootstrap import Estimate
from common.evaluation.roc import weighted_auc


@dataclass(frozen=True, slots=True, kw_only=True)
class OneVsRest:
    """Areas under the ROC curve, each with its interval over patients.

    Attributes:
        grades: of each grade against all others.
        mean: over the grades.
        prevalence_weighted: the mean in proportion to the grades' exams.
    """

    grades: tuple[Estimate, ...]
    mean: Estimate
    prevalence_weighted: Estimate


def one_vs_rest(
    scores: Num[np.ndarray, "exams grades"],
    truth: Integer[np.ndarray, " exams"],
    weights: Num[np.ndarray, "replicates exams"],
) -> OneVsRest:
    """The areas of scores that say how likely each grade is.

    Args:
        scores: any finite numbers, larger for likelier; they need not add up to 1.
        truth: reference grades 0 .. grades - 1.
        weights: how often each exam counts in each replicate of the bootstrap.

    Raises:
        DataError: for lengths that differ or a score that is not finite.
    """
    counts = np.concatenate([np.ones((1, len(truth))), weights])  # the exams as they are, then the replicates
    areas = np.stack(
        [weighted_auc(scores[:, grade], truth == grade, counts) for grade in range(scores.shape[1])]
    )
    exams = np.stack([counts[:, truth == grade].sum(axis=1) for grade in range(scores.shape[1])])
    return OneVsRest(
        grades=tuple(map(_estimate, areas)),
        mean=_estimate(_mean(areas, np.ones_like(areas))),
        prevalence_weighted=_estimate(_mean(areas, exams)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeDifference:
    """The area of one grade by two systems, first minus second.

    Attributes:
        estimate: with its interval over patients, both systems scored on the same drawn ones.
        p: two-sided, of swaps within patients.
    """

    estimate: Estimate
    p: float


def differences(
    first: Num[np.ndarray, "exams grades"],
    second: Num[np.ndarray, "exams grades"],
    truth: Integer[np.ndarray, " exams"],
    patient: Integer[np.ndarray, " exams"],
    weights: Num[np.ndarray, "replicates patients"],
    *,
    generator: np.random.Generator,
    permutations: int = 2000,
) -> tuple[GradeDifference, ...]:
    """Each grade's area by two systems on the same exams, compared by patient.

    The test swaps the two systems' ranks of all exams of a patient, or not, and counts the study among the swaps. It
    holds if the systems' ranks can be exchanged within patients; DeLong's test, which takes exams for independent,
    finds differences that are not there where a patient has several.

    Args:
        first: of each exam how likely each grade is, as of :func:`one_vs_rest`.
        second: the other system's.
        truth: reference grades.
        patient: index 0 .. patients - 1 of each exam's patient.
        weights: from ``bootstrap.resamples``.
        generator: draws the swaps.
        permutations: how many.
    """
    counts = np.concatenate([np.ones((1, len(truth))), weights[:, patient]])
    swaps = generator.random((permutations, weights.shape[1])) < 0.5
    found = []
    for grade in range(first.shape[1]):
        is_grade = truth == grade
        areas = [weighted_auc(scores[:, grade], is_grade, counts) for scores in (first, second)]
        study, *replicates = areas[0] - areas[1]
        estimate = bootstrap.summary(float(study), replicates)
        found.append(
            GradeDifference(
                estimate=estimate, p=_swapped(first[:, grade], second[:, grade], is_grade, swaps[:, patient])
            )
        )
    return tuple(found)


def _swapped(
    first: Num[np.ndarray, " exams"],
    second: Num[np.ndarray, " exams"],
    is_grade: Bool[np.ndarray, " exams"],
    swaps: Bool[np.ndarray, "permutations exams"],
) -> float:
    positives = int(is_grade.sum())
    if not 0 < positives < len(is_grade):
        return float("nan")
    a, b = _ranks(first[None]), _ranks(second[None])
    every = np.concatenate([np.zeros((1, len(is_grade)), dtype=bool), swaps])
    # The area is the mean rank of the grade's exams but for constants, so differences of ranks are enough.
    sums = [_ranks(np.where(every, x, y))[:, is_grade].sum(axis=1) for x, y in ((b, a), (a, b))]
    far = np.abs(sums[0] - sums[1])
    return float((far >= far[0] - 1e-9).mean())


def _ranks(values: Num[np.ndarray, "rows exams"]) -> Float64[np.ndarray, "rows exams"]:
    from scipy.stats import rankdata  # noqa: PLC0415  takes long

    return np.asarray(rankdata(values, axis=1), dtype=np.float64)


def _mean(
    areas: Float64[np.ndarray, "grades counts"], shares: Float64[np.ndarray, "grades counts"]
) -> Float64[np.ndarray, " counts"]:
    known = np.isfinite(areas)
    whole = np.where(known, shares, 0).sum(axis=0)
    part = np.where(known, areas * shares, 0).sum(axis=0)
    return np.asarray(np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0))


def _estimate(values: Float64[np.ndarray, " counts"]) -> Estimate:
    return bootstrap.summary(float(values[0]), values[1:])
