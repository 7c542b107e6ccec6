"""How much of heatmaps' mass falls inside the regions that they should show, against chance.

Two controls: *chance* is what a uniform map has inside, the region's share of the picture; *shuffled* is what the
maps of other patients' exams have inside, which knows where such regions usually lie and nothing of this exam.
Intervals resample patients; in a replicate the other patients are those that were drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from common.errors import DataError
from common.evaluation.bootstrap import Estimate, summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Localisation:
    """Means over exams, with intervals over patients; nan where there is nothing to compute from.

    Attributes:
        exams: that have a heatmap.
        empty: exams left out because their heatmap is zero everywhere.
        inside: share of a heatmap's mass inside its exam's region.
        chance: the same for a uniform map.
        ratio: ``inside`` over ``chance``.
        shuffled: share of the mass of other patients' heatmaps inside the exam's region.
        inside_minus_chance: the difference, paired.
        inside_minus_shuffled: the difference, paired.
    """

    exams: int
    empty: int
    inside: Estimate
    chance: Estimate
    ratio: Estimate
    shuffled: Estimate
    inside_minus_chance: Estimate
    inside_minus_shuffled: Estimate


def localisation(
    heatmaps: Float[np.ndarray, "exams h w"],
    regions: Float[np.ndarray, "exams h w"],
    patient: Int64[np.ndarray, " exams"],
    weights: Int64[np.ndarray, "replicates patients"],
) -> Localisation:
    """Compare heatmaps with regions.

    Args:
        heatmaps: not negative.
        regions: share of each pixel that belongs to the region, 0 .. 1.
        patient: index of each exam's patient.
        weights: from :func:`common.evaluation.bootstrap.resamples`, for as many patients.

    Raises:
        DataError: for negative or non-finite heatmaps.
    """
    if not (np.isfinite(heatmaps).all() and (heatmaps >= 0).all()):
        raise DataError("Expected finite, non-negative heatmaps, got negative or non-finite values")
    flat = heatmaps.reshape(len(heatmaps), -1).astype(np.float64)
    used = flat.sum(axis=1) > 0
    share = flat[used] / flat[used].sum(axis=1, keepdims=True)
    region = regions.reshape(len(regions), -1).astype(np.float64)[used]
    every = np.ones((1, weights.shape[1]), dtype=np.int64)
    drawn = _Sums.of(share, region, patient[used], np.concatenate([every, weights]))
    inside, chance, shuffled = drawn.inside, drawn.chance, drawn.shuffled
    return Localisation(
        exams=int(used.sum()),
        empty=int((~used).sum()),
        inside=_estimate(inside),
        chance=_estimate(chance),
        ratio=_estimate(_divided(inside, chance)),
        shuffled=_estimate(shuffled),
        inside_minus_chance=_estimate(inside - chance),
        inside_minus_shuffled=_estimate(inside - shuffled),
    )


def _estimate(values: Float64[np.ndarray, " replicates"]) -> Estimate:
    """The first value is of all exams as they are, the others are of the replicates."""
    return summary(float(values[0]), values[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """The three means of each replicate."""

    inside: Float64[np.ndarray, " replicates"]
    chance: Float64[np.ndarray, " replicates"]
    shuffled: Float64[np.ndarray, " replicates"]

    @classmethod
    def of(
        cls,
        share: Float64[np.ndarray, "exams pixels"],
        region: Float64[np.ndarray, "exams pixels"],
        patient: Int64[np.ndarray, " exams"],
        weights: Int64[np.ndarray, "replicates patients"],
    ) -> _Sums:
        """Sums by patient first: a replicate is then a weighted sum of them, and of their pairs."""
        drawn = weights.astype(np.float64)
        member = np.equal.outer(np.arange(weights.shape[1]), patient).astype(np.float64)
        found = region @ share.T  # found[i, j]: mass of exam j's heatmap inside exam i's region
        strangers = member @ found @ member.T
        np.fill_diagonal(strangers, 0.0)  # a patient's other exams are none
        drawn_exams = drawn * member.sum(axis=1)
        exams = drawn_exams.sum(axis=1)
        of_strangers = drawn * (drawn @ strangers.T)
        return cls(
            inside=_divided(drawn @ (member @ found.diagonal()), exams),
            chance=_divided(drawn @ (member @ region.mean(axis=1)), exams),
            shuffled=_divided(_divided(of_strangers, exams[:, None] - drawn_exams).sum(axis=1), exams),
        )


def _divided(
    above: Float64[np.ndarray, " *shape"], below: Float64[np.ndarray, " *shape"]
) -> Float64[np.ndarray, " *shape"]:
    return np.asarray(np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0))
