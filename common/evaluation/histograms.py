"""Histograms of scores: all that a site tells about a network's validation.

One histogram per class, in 256 equal bins: for a binary network of the predicted probability of class 1, for one
that tells all grades apart of the expected grade over the highest. Sites' histograms add up, and from the sum the
centre reads the AUC (which round is best), a threshold, the ROC curve and how well probabilities are calibrated
(:mod:`common.evaluation.calibration`), without any exam's score leaving its site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike, NDArray

from common.errors import DataError, UpdateError
from common.sections.section import Criterion

BINS = 256
"""Equal bins of [0, 1]; bin b holds probabilities in [b / 256, (b + 1) / 256), the last one also 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreHistograms:
    """Counts of exams by class and by bin of their score.

    Attributes:
        counts: ``int64 (classes, 256)``, non-negative; row c are the exams of class c.

    Raises:
        UpdateError: for counts of another shape or type, or below zero.
    """

    counts: Int64[np.ndarray, "classes 256"]

    def __post_init__(self) -> None:
        shape = self.counts.shape
        fits = len(shape) == 2 and shape[0] >= 2 and shape[1] == BINS and self.counts.dtype == np.int64
        if not fits or (self.counts < 0).any():
            raise UpdateError(
                f"Expected non-negative int64 counts of shape (classes, {BINS}), got {self.counts.dtype} "
                f"{self.counts.shape} from {self.counts.min(initial=0)}."
            )

    @classmethod
    def empty(cls, *, classes: int = 2) -> ScoreHistograms:
        """No exams: the neutral element of addition."""
        return cls(counts=np.zeros((classes, BINS), dtype=np.int64))

    @classmethod
    def from_scores(cls, scores: ArrayLike, labels: ArrayLike, *, classes: int = 2) -> ScoreHistograms:
        """Count exams.

        Args:
            scores: in [0, 1], ``(exams,)``.
            labels: classes 0 .. ``classes`` - 1, ``(exams,)``.
            classes: their number.

        Raises:
            DataError: for lengths that differ, a score not in [0, 1], a label that is no class.
        """
        p, y = np.asarray(scores), np.asarray(labels)
        if p.ndim != 1 or p.shape != y.shape:
            raise DataError(f"Expected scores and labels of one length, got shapes {p.shape} and {y.shape}.")
        if not ((p >= 0) & (p <= 1)).all():
            raise DataError("Expected scores in [0, 1], got a value outside or not a number.")
        if not np.isin(y, np.arange(classes)).all():
            raise DataError(f"Expected labels 0 .. {classes - 1}: leave out exams that were not graded.")
        # Multiplying by a power of two is exact, so p >= k / 256 exactly when p's bin is >= k.
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        counts = np.bincount(y.astype(np.int64) * BINS + bins, minlength=classes * BINS)
        return cls(counts=counts.astype(np.int64).reshape(classes, BINS))

    def __add__(self, other: ScoreHistograms) -> ScoreHistograms:
        """The histograms of both sets of exams together."""
        return ScoreHistograms(counts=self.counts + other.counts)

    @property
    def exams(self) -> tuple[int, ...]:
        """The number of exams of each class."""
        return tuple(int(count) for count in self.counts.sum(axis=1))

    def binned(
        self,
    ) -> tuple[Float64[np.ndarray, " 512"], Int64[np.ndarray, " 512"], Int64[np.ndarray, " 512"]]:
        """Score, label and number of exams of every bin of two classes, each score at the middle of its bin.

        What is computed of these with the numbers as weights is what the exams give, but for half a bin's width. At
        the bins' edges ROC curves are exact.

        Raises:
            DataError: if there are more than two classes: their score is no probability.
        """
        if len(self.counts) > 2:
            raise DataError(f"Expected histograms of two classes, got {len(self.counts)}.")
        middles = (np.arange(BINS) + 0.5) / BINS
        return np.tile(middles, 2), np.repeat(np.arange(2), BINS), self.counts.reshape(-1)

    def auc(self) -> float:
        """Area under the ROC curve, scores of one bin counting as tied; nan if a side has no exam.

        With more than two classes the mean over the cuts between them, those with an empty side left out.
        """
        cuts = range(1, len(self.counts))
        areas = [_auc(self.counts[:cut].sum(axis=0), self.counts[cut:].sum(axis=0)) for cut in cuts]
        found = [area for area in areas if not np.isnan(area)]
        return sum(found) / len(found) if found else float("nan")

    def accuracy(self) -> float:
        """Share of exams whose expected grade, rounded, is their class; nan without exams.

        It is what the bins can tell of a classifier of more than two classes: not how often its most probable grade
        is right, since a bin keeps the mean over the grades alone. A bin counts as its middle; where a border between
        two grades cuts a bin, its scores may be off by half a bin's width.
        """
        highest = len(self.counts) - 1
        grade = np.floor((np.arange(BINS) + 0.5) / BINS * highest + 0.5).astype(np.int64)
        exams = int(self.counts.sum())
        return int(self.counts[grade, np.arange(BINS)].sum()) / exams if exams else float("nan")

    def threshold(self, criterion: Criterion) -> float:
        """The bin edge that is best by a criterion, for two classes.

        A probability **>= threshold** is bit 1. ``youden``: sensitivity + specificity - 1, which gives a rare class
        as much to say as a common one, and so calls it more often than it is there; ``accuracy``: the share of
        right answers; ``kappa``: Cohen's, between the two.

        Returns:
            One of 1/256, 2/256 .. 255/256; of equals the one nearest to 0.5, then the lower. 0.5 if
            a class has no exam, or there are more than two.
        """
        if len(self.counts) > 2 or not all(self.exams):
            return 0.5
        # Counts at or above edges 1 .. 255; the ends would answer every exam alike.
        above = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1][:, 1:]
        index = _INDICES[criterion](above, *self.exams)
        best = 1 + np.flatnonzero(index == index.max())
        return float(best[np.abs(best - BINS // 2).argmin()]) / BINS


_Above = Int64[np.ndarray, "2 edges"]


def _youden(above: _Above, negatives: int, positives: int) -> NDArray[np.int64]:
    """Times the product of the classes' sizes: in integers ties are exact."""
    return np.asarray(above[1] * negatives - above[0] * positives)


def _accuracy(above: _Above, negatives: int, positives: int) -> NDArray[np.int64]:
    """Right answers, less the negatives."""
    return np.asarray(above[1] - above[0])


def _kappa(above: _Above, negatives: int, positives: int) -> NDArray[np.float64]:
    """2 (ad - bc) / (row and column sums multiplied crosswise), as Cohen's kappa of two by two is."""
    called = above.sum(axis=0)
    spared = negatives + positives - called
    return np.asarray(2 * _youden(above, negatives, positives) / (positives * spared + negatives * called))


_INDICES: Mapping[Criterion, Callable[[_Above, int, int], NDArray[np.int64] | NDArray[np.float64]]] = {
    "youden": _youden,
    "accuracy": _accuracy,
    "kappa": _kappa,
}


def _auc(negative: Int64[np.ndarray, " 256"], positive: Int64[np.ndarray, " 256"]) -> float:
    pairs = int(negative.sum()) * int(positive.sum())
    if not pairs:
        return float("nan")
    below = np.cumsum(negative) - negative
    return int((positive * (2 * below + negative)).sum()) / (2 * pairs)
