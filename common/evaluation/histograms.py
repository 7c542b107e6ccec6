"""Histograms of scores: all that a site tells about a binary network's validation.

Two histograms, one a class, of the predicted probability of class 1 in 256 equal bins. Sites' histograms add
up, and from the sum the centre reads the AUC (which round is best) and a threshold (Youden's index), without
any exam's score leaving its site.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy.typing import ArrayLike

from common.errors import DataError, UpdateError

BINS = 256
"""Equal bins of [0, 1]; bin b holds probabilities in [b / 256, (b + 1) / 256), the last one also 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreHistograms:
    """Counts of exams by class and by bin of their score.

    Attributes:
        counts: ``int64 (2, 256)``, non-negative; row 0 are the exams of class 0, row 1 those of class 1.

    Raises:
        UpdateError: for counts of another shape or type, or below zero.
    """

    counts: Int64[np.ndarray, "2 256"]

    def __post_init__(self) -> None:
        if self.counts.shape != (2, BINS) or self.counts.dtype != np.int64 or (self.counts < 0).any():
            raise UpdateError(
                f"Expected non-negative int64 counts of shape (2, {BINS}), got {self.counts.dtype} "
                f"{self.counts.shape} from {self.counts.min(initial=0)}."
            )

    @classmethod
    def empty(cls) -> ScoreHistograms:
        """No exams: the neutral element of addition."""
        return cls(counts=np.zeros((2, BINS), dtype=np.int64))

    @classmethod
    def from_scores(cls, scores: ArrayLike, labels: ArrayLike) -> ScoreHistograms:
        """Count exams.

        Args:
            scores: probabilities of class 1 in [0, 1], ``(exams,)``.
            labels: 0/1 or boolean, ``(exams,)``.

        Raises:
            DataError: for lengths that differ, a score not in [0, 1], a label not 0 or 1.
        """
        p, y = np.asarray(scores), np.asarray(labels)
        if p.ndim != 1 or p.shape != y.shape:
            raise DataError(f"Expected scores and labels of one length, got shapes {p.shape} and {y.shape}.")
        if not ((p >= 0) & (p <= 1)).all():
            raise DataError(
                "Expected probabilities in [0, 1] as scores, got a value outside or not a number."
            )
        if not ((y == 0) | (y == 1)).all():
            raise DataError("Expected labels 0 or 1: leave out exams that were not graded.")
        # Multiplying by a power of two is exact, so p >= k / 256 exactly when p's bin is >= k.
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        counts = np.bincount(y.astype(np.int64) * BINS + bins, minlength=2 * BINS)
        return cls(counts=counts.astype(np.int64).reshape(2, BINS))

    def __add__(self, other: ScoreHistograms) -> ScoreHistograms:
        """The histograms of both sets of exams together."""
        return ScoreHistograms(counts=self.counts + other.counts)

    @property
    def exams(self) -> tuple[int, int]:
        """The number of exams of class 0 and of class 1."""
        return int(self.counts[0].sum()), int(self.counts[1].sum())

    def auc(self) -> float:
        """Area under the ROC curve, scores of one bin counting as tied; nan if a class has no exam."""
        negatives, positives = self.exams
        if not negatives or not positives:
            return float("nan")
        below = np.cumsum(self.counts[0]) - self.counts[0]
        won = int((self.counts[1] * (2 * below + self.counts[0])).sum())
        return won / (2 * negatives * positives)

    def youden_threshold(self) -> float:
        """The bin edge with the largest sensitivity + specificity - 1.

        A probability **>= threshold** is bit 1.

        Returns:
            One of 1/256, 2/256 .. 255/256; of equals the one nearest to 0.5, then the lower. 0.5 if
            a class has no exam.
        """
        negatives, positives = self.exams
        if not negatives or not positives:
            return 0.5
        # Counts at or above edges 1 .. 255; the ends would answer every exam alike.
        above = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1][:, 1:]
        # Integers: Youden's index times the product of the class sizes, so that ties are exact.
        index = above[1] * negatives - above[0] * positives
        best = 1 + np.flatnonzero(index == index.max())
        return float(best[np.abs(best - BINS // 2).argmin()]) / BINS
