"""What guesses prove when the whole trade-off curve of the claim is held against them, not one epsilon and delta.

Steps with Gaussian noise leak less than any mechanism with their (epsilon, delta) may: the bound of
:mod:`common.privacy.audit.audit` allows for the worst of these, and so finds less. Here the hypothesis is the steps'
own curve ``f``: whatever happens with probability ``x`` under one data set has at least ``f(1 - x)`` under a
neighbour. From it follows how likely it is that of ``guesses`` guesses ``correct`` are right.

=====================================  ==============================================================
case                                   answer
=====================================  ==============================================================
no guesses, or half of them right      0
all right                              finite: the ceiling of that many guesses
steps of the whole cohort              their curve is one Gaussian's, exact
sampled steps                          their curve as the privacy loss distribution bounds it
=====================================  ==============================================================

Sources: Mahloujifar, Melis and Chaudhuri 2024, arXiv 2410.22235, the recursion for an auditor who may abstain; Dong,
Roth and Su 2022, arXiv 1905.02383 (a curve from its epsilons and deltas).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from common.errors import ConfigurationError
from common.privacy.accounting import accounting
from common.privacy.accounting.accounting import PrivateSteps

Least: TypeAlias = Callable[[float], float]
"""Probability under one data set -> the least that it can be under a neighbour."""
EPSILONS = np.concatenate([np.linspace(0, 4, 41), np.linspace(4.25, 12, 32), np.linspace(13, 40, 28)])
"""At which a curve of sampled steps is bounded."""
SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
"""Of the canaries on which an auditor may plan not to abstain."""
STEP, SAMPLED_STEP = 1.01, 1.05
"""Factor between the noises that are tried: always the same ones, so that a curve of sampled steps is found once."""
COARSER = 10
"""Grid of a curve's privacy loss against that of the claim: looser bounds, and so a smaller one of the audit."""


@lru_cache(maxsize=256)
def least(steps: PrivateSteps) -> Least:
    """The curve of steps.

    Args:
        steps: of one kind.
    """
    if steps.sample_rate == 1:
        mu = accounting.gaussian_mu([steps])
        return lambda x: float(ndtr(ndtri(x) - mu))
    deltas = np.array(accounting.deltas([steps], epsilons=EPSILONS.tolist(), coarser=COARSER))
    shrunk = np.exp(-EPSILONS)

    def of(x: float) -> float:
        first = 1 - deltas - (1 - x) / shrunk
        second = shrunk * (x - deltas)
        return float(max(0.0, first.max(), second.max()))

    return of


def refutes(
    curve: Least, *, canaries: int, guesses: int, correct: int, confidence: float | int = 0.95
) -> bool:
    """Whether so many right guesses are too many for steps with this curve.

    Args:
        curve: of the steps, by hypothesis.
        canaries: how many were in or out by a fair coin of their own.
        guesses: on how many of them the auditor did not abstain; fixed beforehand.
        correct: right guesses.
        confidence: with which a hypothesis that holds is not refuted, in (0, 1).
    """
    if not guesses:
        return False
    share = guesses / canaries
    level = (1 - confidence) * share
    right, wrong = level * correct / guesses, level * (guesses - correct) / guesses
    for number in range(correct - 1, -1, -1):
        more = max(wrong, curve(right))
        right += number / (guesses - number) * (more - wrong)
        wrong = more
        if right + wrong > share:
            return True
    return False


def epsilon_lower_bound(
    steps: PrivateSteps,
    *,
    canaries: int,
    guesses: int,
    correct: int,
    delta: float | int,
    confidence: float | int = 0.95,
) -> float:
    """The largest epsilon of such steps that the guesses refute, whatever their noise.

    Args:
        steps: sample rate and number of the steps; their noise is where the search begins.
        canaries: as in :func:`refutes`, like the others.
        guesses: of the auditor.
        correct: of these.
        delta: of the claim, in (0, 1).
        confidence: with which the true epsilon is larger.

    Raises:
        ConfigurationError: for counts or probabilities out of range.
    """
    if not 0 <= correct <= guesses <= canaries or not 0 < confidence < 1:
        raise ConfigurationError(
            f"Expected 0 <= correct <= guesses <= canaries and confidence in (0, 1), got {correct}, {guesses}, "
            f"{canaries} and {confidence}"
        )

    if not refutes(lambda x: x, canaries=canaries, guesses=guesses, correct=correct, confidence=confidence):
        return 0.0

    step = STEP if steps.sample_rate == 1 else SAMPLED_STEP

    def noisier(places: int) -> PrivateSteps:
        return replace(steps, noise_multiplier=steps.noise_multiplier * step**places)

    def too_many(places: int) -> bool:
        curve = least(noisier(places))
        return refutes(curve, canaries=canaries, guesses=guesses, correct=correct, confidence=confidence)

    low, high = -1, 1
    while not too_many(high):
        low, high = high, 2 * high
    while too_many(low):
        low, high = 2 * low, low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if too_many(middle) else (middle, high)
    return accounting.epsilon([noisier(high)], delta=delta)


def planned_guesses(claim: float, *, canaries: int, delta: float | int) -> int:
    """How many guesses show most, were the noise half of what makes the claim.

    It depends on the claim alone, so that no error is shared out among choices. For an attacker who sees each
    canary's own coordinate of one Gaussian release.

    Args:
        claim: epsilon, > 0.
        canaries: how many.
        delta: of the claim.
    """
    sigma = accounting.noise_multiplier(claim, sample_rate=1, count=1, delta=delta)
    steps = PrivateSteps(sample_rate=1, noise_multiplier=sigma, count=1)
    choices = sorted({max(2, 2 * round(share * canaries / 2)) for share in SHARES})

    def shown(guesses: int) -> float:
        correct = round(guesses * _right(2 / sigma, guesses / canaries))
        return epsilon_lower_bound(steps, canaries=canaries, guesses=guesses, correct=correct, delta=delta)

    return max(choices, key=shown)


def _right(mu: float, share: float) -> float:
    """Share of right guesses about the surest ``share`` of canaries, whose scores are N(0, 1), or N(mu, 1) if in."""

    def beyond(score: float) -> float:
        return float((ndtr(-score) + ndtr(mu - score)) / 2 - share / 2)

    score = brentq(beyond, mu / 2 - 1e-9, mu + 40)
    return float(ndtr(mu - score) / share)
