"""Exact samples of the discrete Gaussian on the integers, for noise under secure aggregation.

P[x] is proportional to exp(-x^2 / (2 variance)). Only whole numbers are computed with, so no rounding can betray
anything. A sum of discrete Gaussians is nearly, not exactly, one: who adds up sites' shares adds the correction of
Kairouz et al. 2021 (arXiv 2102.06387, theorem 1) to delta.

Source: Canonne, Kamath and Steinke 2020, arXiv 2004.00010, algorithms 1 to 3, here over whole arrays at once.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from common.errors import ConfigurationError
from common.privacy.mechanism.noise import KeyStream

LARGEST_VARIANCE = 2**24
"""Numerators and denominators of all probabilities then fit into 64 bits."""
REACH = 40
"""Candidates beyond this many standard deviations are rejected; exp(-800) of the mass lies there."""


def discrete_gaussian(stream: KeyStream, count: int, *, variance: int) -> Int64[np.ndarray, " count"]:
    """Independent samples.

    Args:
        stream: of the purpose ``discrete noise``.
        count: how many.
        variance: the parameter sigma^2 in grid steps squared, a whole number in 1 .. 2^24. The
            samples' variance is at most that.

    Raises:
        ConfigurationError: for a variance out of range.
    """
    if not 1 <= variance <= LARGEST_VARIANCE:
        raise ConfigurationError(
            f"Expected a variance in 1..{LARGEST_VARIANCE} grid steps squared, got {variance}: choose another grid"
        )
    scale = math.isqrt(variance) + 1
    accepted: list[Int64[np.ndarray, " _"]] = []
    missing = count
    while missing > 0:
        candidates = _discrete_laplace(stream, 2 * missing + 64, scale=scale)
        kept = candidates[_accept(stream, candidates, variance=variance, scale=scale)]
        accepted.append(kept[:missing])
        missing -= len(accepted[-1])
    return np.concatenate(accepted) if accepted else np.zeros(0, np.int64)


def _accept(
    stream: KeyStream, candidates: Int64[np.ndarray, " n"], *, variance: int, scale: int
) -> Bool[np.ndarray, " n"]:
    """With probability exp(-(|y| t - sigma^2)^2 / (2 sigma^2 t^2)) (algorithm 3, line 5)."""
    near = np.abs(candidates) <= REACH * scale
    distance = np.abs(np.where(near, np.abs(candidates), 0) * scale - variance).astype(np.uint64)
    denominator = np.uint64(2 * variance * scale * scale)
    square = distance * distance
    whole, rest = square // denominator, square % denominator
    enough = _successes_of_exp_minus_one(stream, len(candidates)) >= whole
    kept: Bool[np.ndarray, " n"] = near & enough & _exp_minus(stream, rest, denominator)
    return kept


def _discrete_laplace(stream: KeyStream, count: int, *, scale: int) -> Int64[np.ndarray, " some"]:
    """As many samples of P[x] ~ exp(-|x| / scale) as ``count`` tries give (algorithm 2)."""
    rest = stream.below(np.full(count, scale, np.uint64))
    rest = rest[_exp_minus(stream, rest, np.uint64(scale))]
    whole = _successes_of_exp_minus_one(stream, len(rest))
    size = (rest + np.uint64(scale) * whole).astype(np.int64)
    negative = stream.bernoulli(len(size), probability=0.5)
    kept = ~(negative & (size == 0))  # zero has no sign: else it would be twice as likely
    signed: Int64[np.ndarray, " some"] = np.where(negative, -size, size)[kept]
    return signed


def _successes_of_exp_minus_one(stream: KeyStream, count: int) -> UInt64[np.ndarray, " count"]:
    """How many events of probability exp(-1) come before the first that fails."""
    successes = np.zeros(count, np.uint64)
    active = np.arange(count)
    while len(active):
        ones = np.ones(len(active), np.uint64)
        active = active[_exp_minus(stream, ones, np.uint64(1))]
        successes[active] += np.uint64(1)
    return successes


def _exp_minus(
    stream: KeyStream, numerator: UInt64[np.ndarray, " n"], denominator: np.uint64
) -> Bool[np.ndarray, " n"]:
    """True with probability exp(-numerator / denominator), 0 <= numerator <= denominator (algorithm 1).

    The first k at which an event of probability numerator / (denominator k) fails is odd with that probability.
    """
    last = np.ones(len(numerator), np.uint64)
    active = np.arange(len(numerator))
    k = 1
    while len(active):
        drawn = stream.below(np.full(len(active), denominator * np.uint64(k), np.uint64))
        active = active[drawn < numerator[active]]
        k += 1
        last[active] = np.uint64(k)
    odd: Bool[np.ndarray, " n"] = last % np.uint64(2) == 1
    return odd
