"""Every site's share of the noise in a sum, and what the sum of shares is worth.

A sum is promised noise of ``noise_multiplier`` times the clipping norm. At least ``survivors`` sites stay in a sum
and ``colluders`` of them may know their own shares, so each share has ``1 / (survivors - colluders)`` of the
variance. All is counted in grid steps, ``norm_steps`` to the clipping norm.

**Guarantee.** The noise of the honest survivors is, up to a delta that :func:`delta_correction` gives, a Gaussian of
at least the promised multiplier, followed by rounding; so a release is accounted as a Gaussian mechanism. Two steps:

1. A sum of n discrete Gaussians of variance v is nearly one of variance n v: the logarithm of the ratio of their
   probabilities is at most ``5 sum_{k=1}^{n-1} exp(-2 pi^2 v k / (k + 1))`` a coordinate (Kairouz, Liu and Steinke
   2021, arXiv 2102.06387, theorem 1 and its proof; its tau is twice that).
2. A discrete Gaussian of variance V around a whole number is nearly a continuous one of variance V - s, rounded at
   random by a discrete Gaussian of variance s: by Poisson's summation the ratio is at most (1 + e) / (1 - e) with
   ``e = 2 sum_{k>=1} exp(-2 pi^2 s k^2)``. Shares are larger by ``SMOOTHING`` = s, so V - s is what was promised.

====================================  =======================================================================
case                                  answer
====================================  =======================================================================
a share below 100 grid steps          refused: choose more steps per clipping norm
a share too large for one draw        the sum of several smaller ones
fewer known peers than the minimum    full noise, or refused, as the site's policy says
====================================  =======================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
from jaxtyping import Int64

from common.errors import ConfigurationError, PolicyError
from common.privacy.mechanism.discrete_gaussian import LARGEST_VARIANCE, REACH, discrete_gaussian
from common.privacy.mechanism.noise import KeyStream

LEAST_STEPS = 100
"""The fewest grid steps in a site's standard deviation."""
SMOOTHING = 10
"""Variance in grid steps squared that is added to a share for step 2 of the guarantee."""


def share_multiplier(
    noise_multiplier: float | int,
    *,
    survivors: int,
    colluders: int,
    known_peers: int,
    minimum_peers: int,
    otherwise: Literal["full", "refuse"] = "refuse",
) -> float:
    """Standard deviation of one site's noise over the clipping norm.

    Args:
        noise_multiplier: promised for the sum, > 0.
        survivors: U, the fewest sites in a sum that is opened.
        colluders: t, of them who may know their own shares, 0 .. U - 1.
        known_peers: other sites in the round whose keys this site has pinned.
        minimum_peers: how many of them it asks for.
        otherwise: what it does with fewer: bears all the noise itself, or takes no part.

    Raises:
        ConfigurationError: for numbers out of range.
        PolicyError: if there are fewer and it refuses.
    """
    if not (0 < noise_multiplier < math.inf and 0 <= colluders < survivors):
        raise ConfigurationError(
            f"Expected noise_multiplier > 0 and 0 <= colluders < survivors, got {noise_multiplier}, {colluders} "
            f"and {survivors}"
        )
    if known_peers >= minimum_peers:
        return noise_multiplier / math.sqrt(survivors - colluders)
    if otherwise == "full":
        return float(noise_multiplier)
    raise PolicyError(
        f"Expected at least {minimum_peers} other sites with known keys, got {known_peers}: add peers to site.toml"
    )


def finest_norm_steps(multiplier: float | int) -> int:
    """As many grid steps to the clipping norm as a share of this multiplier can be drawn with at once.

    Raises:
        ConfigurationError: if that is none.
    """
    steps = math.isqrt(math.floor((LARGEST_VARIANCE - SMOOTHING) / Fraction(multiplier) ** 2))
    if steps < 1:
        raise ConfigurationError(
            f"Expected a multiplier of at most {math.isqrt(LARGEST_VARIANCE)} for a share, got {multiplier}"
        )
    return steps


def share_variance(multiplier: float | int, *, norm_steps: int) -> int:
    """Variance of a share in grid steps squared, rounded up.

    Raises:
        ConfigurationError: if its standard deviation is below 100 grid steps.
    """
    promised = math.ceil((Fraction(multiplier) * norm_steps) ** 2)
    if promised < LEAST_STEPS**2:
        raise ConfigurationError(
            f"Expected a share of the noise of at least {LEAST_STEPS} grid steps, got {math.sqrt(promised):.1f}: use "
            f"more than {norm_steps} grid steps per clipping norm"
        )
    return promised + SMOOTHING


def draw(count: int, *, variance: int, entropy: bytes) -> Int64[np.ndarray, " count"]:
    """A site's noise.

    Args:
        count: how many numbers.
        variance: from :func:`share_variance`.
        entropy: 32 fresh bytes from the operating system, used for this draw only.
    """
    stream = KeyStream(entropy, "discrete noise")
    parts = [discrete_gaussian(stream, count, variance=part) for part in _parts(variance)]
    total: Int64[np.ndarray, " count"] = np.asarray(np.sum(parts, axis=0, dtype=np.int64))
    return total


def draws(variance: int) -> int:
    """How many discrete Gaussians :func:`draw` adds up."""
    return -(-variance // LARGEST_VARIANCE)


def largest_noise(variance: int) -> int:
    """The largest absolute value that :func:`draw` can give."""
    return sum(REACH * (math.isqrt(part) + 1) for part in _parts(variance))


def actual_multiplier(noise_multiplier: float | int, *, made_for: int, honest: int) -> float:
    """The noise multiplier of a sum in which other sites remain than its shares were made for.

    Args:
        noise_multiplier: promised.
        made_for: how many shares have the whole variance, survivors - colluders.
        honest: how many shares are in the sum that nobody knows.
    """
    return float(noise_multiplier * math.sqrt(honest / made_for))


def log10_delta_correction(
    epsilon: float | int, *, rounds: int, length: int, shares: int, variance: int
) -> float:
    """Logarithm of :func:`delta_correction`, which is mostly too small for a float."""
    least = min(variance, LARGEST_VARIANCE // 2)
    exponents = [-2 * math.pi**2 * least * k / (k + 1) for k in range(1, shares)]
    smoothing = -2 * math.pi**2 * SMOOTHING
    # 2 * (1.01 * 2 exp(smoothing)): the ratio of step 2, whose further terms are below a hundredth of the first
    natural = _log_sum([math.log(5) + x for x in exponents] + [math.log(4.04) + smoothing])
    return (natural + math.log(rounds * length) + float(np.logaddexp(0.0, epsilon))) / math.log(10)


def delta_correction(epsilon: float | int, *, rounds: int, length: int, shares: int, variance: int) -> float:
    """What the discreteness of the noise adds to delta, at an epsilon that was accounted for Gaussians.

    If the logarithm of the ratio of what is released to what is accounted is at most ``kappa`` in one coordinate, it
    is at most ``rounds * length * kappa`` in all of them, whatever later rounds make of earlier ones, and so is the
    distance between the two in total variation. Accounting the one for the other costs ``(1 + exp(epsilon))`` times
    that: so it grows by simple addition over rounds.

    Args:
        epsilon: of all the rounds.
        rounds: how many sums are released.
        length: numbers in a sum.
        shares: draws in a sum, at most; one per site, more for a site that bears all the noise.
        variance: the smallest one of a share.
    """
    logarithm = log10_delta_correction(
        epsilon, rounds=rounds, length=length, shares=shares, variance=variance
    )
    return float(10.0 ** min(0.0, logarithm))


def _parts(variance: int) -> Sequence[int]:
    """Variances of as many draws as are needed, that add up to at least ``variance``."""
    count = draws(variance)
    return [-(-variance // count)] * count


def _log_sum(logarithms: Sequence[float]) -> float:
    return float(np.logaddexp.reduce(logarithms))
