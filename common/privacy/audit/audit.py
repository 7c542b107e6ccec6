"""What an attack on one run proves: a lower bound on epsilon.

``canaries`` records are made up, each put into the data with probability 1/2, independently. After the run an
auditor says "in" or "out" for those of which he is surest, and abstains on the rest. Were the run (epsilon,
delta)-differentially private, the number of right guesses would be at most Binomial(guesses, e^epsilon / (1 +
e^epsilon)), but for delta; so many right guesses refute a small epsilon.

**A bound below the claim proves nothing**: it is what this attack, with this many canaries, could show.
:func:`ceiling` says what a perfect attack could have shown; audit at a claim below it.

==================================  ===========================================
case                                answer
==================================  ===========================================
no guesses, or half of them right   0
all right                           finite: the ceiling of that many guesses
``delta`` 0                         the bound for pure differential privacy
more right than guesses, and so on  refused
==================================  ===========================================

Source: Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, theorem 5.2 and appendix D.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit
from scipy.stats import binom

from common.errors import ConfigurationError

LARGEST = 64.0
"""No bound above this is given: e^-64 is below every delta in use."""


def epsilon_lower_bound(
    *, canaries: int, guesses: int, correct: int, delta: float | int, confidence: float | int = 0.95
) -> float:
    """The largest epsilon that the guesses refute.

    Args:
        canaries: how many were in or out by a fair coin of their own.
        guesses: on how many of them the auditor did not abstain. Fixed beforehand: see :func:`best_lower_bound`.
        correct: right guesses.
        delta: of the claim, in [0, 1).
        confidence: with which the true epsilon is larger, in (0, 1).

    Returns:
        A lower bound, >= 0.

    Raises:
        ConfigurationError: for counts or probabilities out of range.
    """
    _check(canaries=canaries, guesses=guesses, correct=correct, delta=delta, confidence=confidence)
    level = 1 - confidence
    if _p_value(0.0, canaries, guesses, correct, delta) >= level:
        return 0.0
    low, high = 0.0, 1.0
    while _p_value(high, canaries, guesses, correct, delta) < level and high < LARGEST:
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        if _p_value(middle, canaries, guesses, correct, delta) < level:
            low = middle
        else:
            high = middle
    return low


def best_lower_bound(
    scores: Float[np.ndarray, " canaries"],
    included: Bool[np.ndarray, " canaries"],
    *,
    guesses: Sequence[int],
    delta: float | int,
    confidence: float | int = 0.95,
) -> float:
    """The best bound over several numbers of guesses, each at a share of the error (Bonferroni).

    The auditor says "in" for the ``r / 2`` highest scores and "out" for the ``r / 2`` lowest.

    Args:
        scores: how much each canary looks as if it was in; comparable among canaries.
        included: which were in.
        guesses: the numbers of guesses to try, even, chosen before the scores were seen.
        delta: of the claim, in [0, 1).
        confidence: of all choices together.

    Raises:
        ConfigurationError: for scores that are not finite, odd or no choices, or values out of range.
    """
    found = right_guesses(scores, included, guesses=guesses)
    share = 1 - (1 - confidence) / len(found)
    return max(
        epsilon_lower_bound(
            canaries=len(scores), guesses=choice, correct=correct, delta=delta, confidence=share
        )
        for choice, correct in found.items()
    )


def right_guesses(
    scores: Float[np.ndarray, " canaries"],
    included: Bool[np.ndarray, " canaries"],
    *,
    guesses: Sequence[int],
) -> dict[int, int]:
    """Number of guesses -> how many are right, "in" for the highest scores and "out" for the lowest.

    Args:
        scores: how much each canary looks as if it was in; comparable among canaries.
        included: which were in.
        guesses: even numbers of guesses.

    Raises:
        ConfigurationError: for scores that are not finite, or odd or no choices.
    """
    if not np.isfinite(scores).all() or scores.shape != included.shape:
        raise ConfigurationError(
            "Expected one finite score per canary: a release that is not finite was scored"
        )
    if not guesses or any(choice < 2 or choice % 2 or choice > len(scores) for choice in guesses):
        raise ConfigurationError(f"Expected even numbers of guesses in 2..{len(scores)}, got {list(guesses)}")
    sorted_in = included[np.argsort(scores, kind="stable")]
    return {
        choice: int((~sorted_in[: choice // 2]).sum() + sorted_in[-(choice // 2) :].sum())
        for choice in guesses
    }


def ceiling(*, canaries: int, delta: float | int, confidence: float | int = 0.95) -> float:
    """The bound of a perfect attack: no audit with this many canaries can show more.

    Raises:
        ConfigurationError: for values out of range.
    """
    tried = sorted({max(1, round(canaries * share)) for share in np.linspace(0.05, 1, 20)})
    return max(
        epsilon_lower_bound(canaries=canaries, guesses=r, correct=r, delta=delta, confidence=confidence)
        for r in tried
    )


def _p_value(epsilon: float | int, canaries: int, guesses: int, correct: int, delta: float | int) -> float:
    """P[Bin(r, a) >= v] + 2 m delta max_i P[v > Bin(r, a) >= v - i] / i, a = e^epsilon / (1 + e^epsilon)."""
    right = float(expit(epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    if correct == 0 or delta == 0:
        return min(1.0, tail)
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    return min(1.0, tail + 2 * canaries * delta * float(np.max(below / np.arange(1, correct + 1))))


def _check(*, canaries: int, guesses: int, correct: int, delta: float | int, confidence: float | int) -> None:
    if not 0 <= correct <= guesses <= canaries or canaries < 1:
        raise ConfigurationError(
            f"Expected 0 <= correct <= guesses <= canaries and a canary, got {correct}, {guesses}, {canaries}"
        )
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ConfigurationError(
            f"Expected delta in [0, 1) and confidence in (0, 1), got {delta} and {confidence}"
        )
