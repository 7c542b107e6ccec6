"""Noise of a finished run over all its rounds together: how little of it would have been found, and how surely.

A round's update is a sum of clipped gradients and noise, each in units of sigma C. Two lengths are looked at:

* *all rounds as they are*: whatever the signal is, it makes an update longer, round by round, for each round's noise
  is drawn after its signal is fixed. So the sum of squared lengths is at least as large as chi-squared with as many
  degrees of freedom as there are numbers in all rounds;
* *disjoint pairs of rounds that follow each other*: half the squared length of their difference. Where everybody
  takes part in every round, the signal hardly changes from one round to the next, and cancels: what is left is the
  noise alone, with half as many degrees of freedom. Where patients are sampled, the difference also has
  ``q (1 - q) N / (numbers sigma^2)`` of signal at most.

A difference in which the first round's noise has moved the weights is longer, not shorter: the loss is convex in a
linear head, so that the gradient moves with its weights, and the update against them.

=============================================  ==========================================================
case                                           answer
=============================================  ==========================================================
noise smaller by ``findable`` or more          found, with that power
smaller by less                                perhaps: not contradicted, which is no proof
signal that does not cancel                    hides noise that is missing; ``findable`` leaves out the
                                               change of patients' own gradients between two rounds
patients are sampled, the noise is small       ``findable`` is infinite where sampling alone could hide it
more noise than was booked                     not looked for: it harms nobody
=============================================  ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

LEVEL = 1e-6
"""How often sound noise of a whole run looks too small; half of it for each of the two lengths."""
POWERS = (0.8, 0.95)
"""With which the smallest deviations are found that a report names."""
ROUNDING = 0.99
"""What 16-bit numbers on the wire may take of a squared length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledNoise:
    """A run's updates together, beside the noise that was claimed for each of them.

    Attributes:
        claimed: standard deviation that was claimed, sigma C.
        updates: how many, >= 1.
        values: numbers in each.
        seen: root mean square of a number over all updates: noise and signal.
        pairs: of updates of rounds that follow each other; no update is in two of them.
        between: root mean square of a number of half their differences, times root two; ``None`` without a pair.
        sampling: what the sampling of patients may add to the square of ``between``, as a share of the noise's.
    """

    claimed: float
    updates: int
    values: int
    seen: float
    pairs: int
    between: float | None
    sampling: float

    def findable(self, power: float) -> float:
        """By what factor noise has to be too small so that the pairs find it with a power in (0, 1).

        Infinite where they cannot: no pairs, or sampling could make up for what is missing.
        """
        from scipy.stats import chi2  # noqa: PLC0415  half a second

        if not self.pairs:
            return math.inf
        freedom = self.pairs * self.values
        least = self._least(freedom) - self.sampling
        return math.sqrt(float(chi2.ppf(power, freedom)) / freedom / least) if least > 0 else math.inf

    def problems(self) -> Iterator[str]:
        """Why all rounds together cannot have had the noise that was claimed."""
        told = (
            (self.updates, self.seen, f"all {self.updates} rounds together"),
            (self.pairs, self.between, f"{self.pairs} pairs of rounds, whose signal cancels"),
        )
        for many, length, what in told:
            if many and length is not None:
                least = self._least(many * self.values)
                if length < self.claimed * math.sqrt(least):
                    yield (
                        f"{what}: noise of standard deviation {self.claimed:g} was claimed, {length:.4g} is seen "
                        f"where it is at least {self.claimed * math.sqrt(least):.4g} but for once in "
                        f"{2 / LEVEL:,.0f} times"
                    )

    def __str__(self) -> str:
        found = f"{self.updates} updates were measured together"
        if self.between is None:
            return f"{found}; no two rounds follow each other, so that nothing is known of the noise under a signal"
        found += f", in {self.pairs} pairs: {self.between:.4g} where {self.claimed:g} was claimed. "
        usual, sure = (self.findable(power) for power in POWERS)
        if math.isinf(sure):
            return f"{found}So few rounds and numbers, or sampled patients, find no noise that is too small"
        return (
            f"{found}Smaller noise is found from a factor of {sure:.3g} on ({usual:.3g} with power {POWERS[0]:g} "
            f"instead of {POWERS[1]:g}; sound noise is blamed once in {1 / LEVEL:,.0f} runs), as long as patients' "
            f"gradients hardly change from one round to the next; below that factor nothing is contradicted"
        )

    @staticmethod
    def _least(freedom: int) -> float:
        """The mean square that sound noise stays above, in units of what was claimed."""
        from scipy.stats import chi2  # noqa: PLC0415  half a second

        return ROUNDING * float(chi2.ppf(LEVEL / 2, freedom)) / freedom


def pooled(
    updates: Sequence[tuple[int, Float64[np.ndarray, " _"]]], *, claimed: float | int, sampling: float | int
) -> PooledNoise:
    """Measure a run's updates together.

    Args:
        updates: round and update of each, in units of the sum before it was scaled; at least one, each of the same
            length, each round once.
        claimed: sigma C.
        sampling: see :class:`PooledNoise`.
    """
    ordered = sorted(updates, key=lambda one: one[0])
    values = len(ordered[0][1])
    squares = sum(float(update @ update) for _, update in ordered)
    pairs, differences, place = 0, 0.0, 0
    while place + 1 < len(ordered):
        (first, one), (second, other) = ordered[place], ordered[place + 1]
        together = second == first + 1
        if together:
            pairs, differences = pairs + 1, differences + float((one - other) @ (one - other)) / 2
        place += 2 if together else 1
    return PooledNoise(
        claimed=float(claimed),
        updates=len(ordered),
        values=values,
        seen=math.sqrt(squares / (len(ordered) * values)),
        pairs=pairs,
        between=math.sqrt(differences / (pairs * values)) if pairs else None,
        sampling=float(sampling),
    )
