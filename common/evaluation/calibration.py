"""Calibration: whether what is given a probability of 0.8 is there eight times in ten.

Scores are put into :data:`GROUPS` groups of equal width. Of each group the mean score is set against the share of
class 1 (the reliability diagram); the expected calibration error (ECE) is the mean of their distance, each group
counting by its exams:

    ECE = sum over groups of n_g / n * | share_g - score_g |

**Chance alone makes it larger.** With few exams per group even perfect probabilities have an ECE above zero, and
bootstrap replicates on average have a larger one than the exams as they are: :func:`by_chance` says how large it is
without any fault. Brier's score has no groups, and no such bias.

**From histograms.** The groups' edges are edges of the histograms' bins, so that every exam is in its own group. Only
where in its bin an exam lies is lost: taken at the middle (``ScoreHistograms.binned``), it is off by 1/512 at most.
So the ECE is off by 1/512 at most (:data:`ECE_ERROR`), Brier's score by 1/256 (:data:`BRIER_ERROR`).

Source: Naeini, Cooper and Hauskrecht 2015, Obtaining well calibrated probabilities using Bayesian binning, AAAI (ECE,
ten groups); Guo, Pleiss, Sun and Weinberger 2017, On calibration of modern neural networks, arXiv 1706.04599,
equation 3 (fifteen groups); Brier 1950, Monthly Weather Review 78:1-3; Wilson 1927, J. Am. Stat. Assoc. 22:209-212;
Broecker and Smith 2007, Weather and Forecasting 22:651-661 (labels drawn by the scores themselves).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from common.errors import DataError
from common.evaluation.histograms import BINS

GROUPS = 8
"""Equal groups of [0, 1], the last one with 1; a divisor of the histograms' 256 bins."""
ECE_ERROR = 0.5 / BINS
"""Largest distance of the ECE of binned scores from that of the scores themselves."""
BRIER_ERROR = 1 / BINS
"""The same of Brier's score."""

_Scores = Float64[np.ndarray, " exams"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The exams whose scores are alike: one point of a reliability diagram.

    Attributes:
        exams: their number.
        score: their mean score.
        share: of class 1 among them.
        low: lower end of Wilson's 95 % interval of ``share``, which takes exams as independent of each other.
        high: upper end.
    """

    exams: int
    score: float
    share: float
    low: float
    high: float


def reliability(scores: ArrayLike, labels: ArrayLike, counts: ArrayLike | None = None) -> tuple[Group, ...]:
    """The groups that have exams, by rising score.

    Args:
        scores: probabilities of class 1, ``(scores,)``.
        labels: 0/1 or boolean, ``(scores,)``.
        counts: how many exams have this score and label, ``(scores,)``, whole numbers; ``None``: one each.

    Raises:
        DataError: for lengths that differ, a score not in [0, 1], a label that is not 0 or 1.
    """
    p, y = _checked(scores, labels)
    n = np.ones(len(p), dtype=np.int64) if counts is None else np.asarray(counts, dtype=np.int64)
    exams, score, ones = (
        np.bincount(_group(p), weights=values, minlength=GROUPS) for values in (n, n * p, n * y)
    )
    found = []
    for group in np.flatnonzero(exams):
        number, positive = round(exams[group]), round(ones[group])
        interval = binomtest(positive, number).proportion_ci(method="wilson")
        found.append(
            Group(
                exams=number,
                score=float(score[group] / exams[group]),
                share=positive / number,
                low=float(interval.low),
                high=float(interval.high),
            )
        )
    return tuple(found)


def weighted_ece(
    scores: ArrayLike, labels: ArrayLike, weights: Num[np.ndarray, "replicates scores"]
) -> Float64[np.ndarray, " replicates"]:
    """Expected calibration error, for many weightings of the exams at once (bootstrap replicates).

    Args:
        scores: probabilities of class 1, ``(scores,)``.
        labels: 0/1 or boolean, ``(scores,)``.
        weights: how often each exam counts, non-negative.

    Returns:
        In [0, 1]; nan where nothing counts.

    Raises:
        DataError: as :func:`reliability`.
    """
    p, y = _checked(scores, labels)
    # n_g |share_g - score_g| is the absolute sum of (label - score) over the group
    gaps = np.abs(weights @ ((y - p)[:, None] * _membership(p))).sum(axis=1)
    return _per_exam(gaps, weights)


def weighted_brier(
    scores: ArrayLike, labels: ArrayLike, weights: Num[np.ndarray, "replicates scores"]
) -> Float64[np.ndarray, " replicates"]:
    """Brier's score, the mean of (label - score)**2; arguments, result and errors as :func:`weighted_ece`."""
    p, y = _checked(scores, labels)
    return _per_exam(weights @ (y - p) ** 2, weights)


def by_chance(scores: ArrayLike, *, draws: int, generator: np.random.Generator) -> float:
    """The ECE that perfect probabilities would have on as many exams: labels are drawn by the scores themselves.

    Exams are drawn independently of each other. Those of one patient are alike, so chance has more to say than this.

    Args:
        scores: probabilities of class 1, ``(exams,)``.
        draws: how often all labels are drawn.
        generator: draws them.

    Returns:
        The mean over the draws; nan without exams.
    """
    p = np.asarray(scores, dtype=np.float64)
    if not p.size:
        return float("nan")
    drawn: Bool[np.ndarray, "draws exams"] = generator.random((draws, len(p))) < p
    return float(np.abs((drawn - p) @ _membership(p)).sum(axis=1).mean() / len(p))


def _group(p: _Scores) -> Int64[np.ndarray, " exams"]:
    return np.asarray(np.minimum((p * GROUPS).astype(np.int64), GROUPS - 1))


def _membership(p: _Scores) -> Float64[np.ndarray, "exams groups"]:
    return np.asarray(np.eye(GROUPS)[_group(p)])


def _per_exam(
    total: Float64[np.ndarray, " replicates"], weights: Num[np.ndarray, "replicates scores"]
) -> Float64[np.ndarray, " replicates"]:
    exams = np.asarray(weights.sum(axis=1), dtype=np.float64)
    return np.asarray(np.divide(total, exams, out=np.full(len(exams), np.nan), where=exams > 0))


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[_Scores, _Scores]:
    p, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if p.ndim != 1 or p.shape != y.shape:
        raise DataError(f"Expected scores and labels of one length, got shapes {p.shape} and {y.shape}.")
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError("Expected probabilities in [0, 1], got a value outside or not a number.")
    if not np.isin(y, (0, 1)).all():
        raise DataError("Expected labels 0 or 1: leave out exams that were not graded.")
    return p, y
