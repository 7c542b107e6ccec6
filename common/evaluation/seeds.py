"""One difference a seed: what several trainings say of two systems, and how many it takes to say it.

A seed is a cohort, a split and a start of its own, so that differences of seeds are independent, patients' chance and
training's in one. The unit is the seed: two are two facts, however many patients each has.

==============================================  ===============================
case                                            p
==============================================  ===============================
fewer than two seeds                            nan
all differences are 0                           1
all differences are equal and not 0             nan of t; 2 / 2^seeds of signs
==============================================  ===============================

Source: Student 1908, Biometrika 6:1-25; sign flips: Fisher 1935, The Design of Experiments, section 21; power: Cohen
1988, Statistical Power Analysis, chapter 2, by the noncentral t distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from common.evaluation import bootstrap
from common.evaluation.bootstrap import Estimate

_TIE = 1e-12
MOST_SEEDS = 1000
"""Beyond which no number is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds:
    """A difference over the seeds.

    Attributes:
        mean: of the seeds' differences.
        sd: their standard deviation (divided by seeds - 1); nan for one seed.
        p_t: two-sided, of the paired t test.
        p_signs: two-sided, over all signs that the differences could have: at least 2 / 2^seeds.
    """

    mean: float
    sd: float
    p_t: float
    p_signs: float


def over_seeds(differences: Float64[np.ndarray, " seeds"]) -> OverSeeds:
    """Mean, spread and tests of one difference a seed; no p of signs from more than 20 seeds."""
    seeds = len(differences)
    mean = float(differences.mean()) if seeds else math.nan
    sd = float(differences.std(ddof=1)) if seeds > 1 else math.nan
    return OverSeeds(mean=mean, sd=sd, p_t=_p_t(mean, sd, seeds), p_signs=_p_signs(differences))


def estimate(values: Float64[np.ndarray, "seeds draws"]) -> Estimate:
    """The mean over the seeds; its interval draws seeds, and patients within them.

    Args:
        values: of each seed a figure of all exams as they are, then of each draw of its patients.
    """
    seeds, draws = len(values), values.shape[1] - 1
    chosen = np.random.default_rng(0).integers(seeds, size=(seeds, draws))
    replicates = values[chosen, np.arange(1, draws + 1)].mean(axis=0)
    return bootstrap.summary(float(values[:, 0].mean()), replicates)


def seeds_needed(sd: float, *, smallest: float, alpha: float, power: float) -> int | None:
    """Seeds from which on a two-sided paired t test finds a difference with the asked power.

    Args:
        sd: standard deviation of the seeds' differences, > 0.
        smallest: the difference to be found, > 0, in the same unit.
        alpha: of this test: of several with Holm's correction alpha / tests, the smallest step, is safe.
        power: chance to find it, in (0, 1).

    Returns:
        At least 2; ``None`` where the spread is unknown, or more than :data:`MOST_SEEDS` are needed.
    """
    from scipy.stats import nct, t  # noqa: PLC0415  takes long

    if not math.isfinite(sd) or sd < _TIE:
        return None
    for seeds in range(2, MOST_SEEDS + 1):
        bound, shift = t.isf(alpha / 2, seeds - 1), smallest / sd * math.sqrt(seeds)
        # The other tail adds less than a millionth, and is where the noncentral t loses its digits.
        if nct.sf(bound, seeds - 1, shift) >= power:
            return seeds
    return None


def _p_t(mean: float, sd: float, seeds: int) -> float:
    from scipy.stats import t  # noqa: PLC0415

    if seeds < 2:
        return math.nan
    if sd < _TIE:
        return (
            1.0 if abs(mean) < _TIE else math.nan
        )  # no spread was seen, which is no proof that there is none
    return float(2 * t.sf(abs(mean) / sd * math.sqrt(seeds), seeds - 1))


def _p_signs(differences: Float64[np.ndarray, " seeds"]) -> float:
    seeds = len(differences)
    if not 2 <= seeds <= 20 or not np.isfinite(differences).all():
        return math.nan
    # The first sign is held: the others mirror these.
    signs = 1 - 2 * bootstrap.subsets(seeds - 1)
    sums = np.abs(differences[0] + signs @ differences[1:])
    return float((sums >= sums[0] - _TIE).mean())
