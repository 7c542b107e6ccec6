"""What private steps cost a patient: epsilon at a delta, under adding or removing one patient.

A step clips the sum over one patient's images to ``C``, adds up the patients that were sampled, each with
probability ``sample_rate``, and adds Gaussian noise of standard deviation ``noise_multiplier * C``. Steps of any
rates and multipliers compose, in any order. What happened is :class:`PrivateSteps`; what it costs is computed by
two accountants that share no code:

* :func:`epsilon`: numerical composition of privacy loss distributions (dp-accounting), **the** number. Steps of
  the whole cohort are exact: Gaussians compose to one Gaussian, whose epsilon has a closed form.
* :mod:`common.privacy.accounting.costs`: composition of privacy random variables (Opacus), the second opinion.

Both are upper bounds. Renyi accounting is not offered: at ``sample_rate`` 0.2 it says 384 where these say 242.

==========================================  =====================================================================
case                                        answer
==========================================  =====================================================================
no steps                                    0
``noise_multiplier`` 0, negative, nan, inf  refused: a release without noise is booked as unbounded, not accounted
anything but :class:`PrivateSteps`          refused: an event that is not known has no cost that is known
other neighbours, several patients          :mod:`common.privacy.accounting.adjacency`, under another name
==========================================  =====================================================================

Sources: Koskela et al. 2020, arXiv 1906.03049, and Doroshenko et al. 2022, arXiv 2207.04380 (PLD, "connect the
dots"); Gopi et al. 2021, arXiv 2106.02848 (PRV); Balle and Wang 2018, arXiv 1805.06530, equation 6 (Gaussian).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

from common.errors import ConfigurationError, VerificationError

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

FINEST = 1e-4
"""Grid of the privacy loss; it grows with the width of the composed loss, so that time stays bounded."""
SIGMA_TOLERANCE = 1e-3
"""How far :func:`noise_multiplier` may lie above the smallest one that satisfies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSteps:
    """Private steps of one kind.

    Attributes:
        sample_rate: probability with which each patient takes part in a step, in (0, 1]; 1 is the whole cohort.
        noise_multiplier: standard deviation of the noise over the clipping norm, > 0.
        count: how many such steps, >= 1.

    Raises:
        ConfigurationError: for values out of range.
    """

    sample_rate: float | int
    noise_multiplier: float | int
    count: int

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate <= 1:
            raise ConfigurationError(f"Expected sample_rate in (0, 1], got {self.sample_rate}")
        if not 0 < self.noise_multiplier < math.inf:
            raise ConfigurationError(
                f"Expected a finite noise_multiplier > 0, got {self.noise_multiplier}: a release without noise "
                f"has no epsilon and is booked as unbounded"
            )
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ConfigurationError(f"Expected count to be a whole number >= 1, got {self.count!r}")


def epsilon(steps: Sequence[PrivateSteps], *, delta: float | int) -> float:
    """Epsilon of all steps together, for one patient added or removed (upper bound by PLD).

    Args:
        steps: everything that was released; order does not matter.
        delta: in (0, 1).

    Raises:
        VerificationError: for anything that is not :class:`PrivateSteps`.
        ConfigurationError: for a delta out of range.
    """
    check_delta(delta)
    merged = merge(steps)
    if not merged:
        return 0.0
    if all(step.sample_rate == 1 for step in merged):
        return gaussian_epsilon(gaussian_mu(merged), delta=delta)
    return float(composed(merged).get_epsilon_for_delta(delta))


def delta(steps: Sequence[PrivateSteps], *, epsilon: float | int) -> float:
    """Delta of all steps together at an epsilon >= 0, for one patient added or removed (upper bound by PLD).

    Raises:
        VerificationError: for anything that is not :class:`PrivateSteps`.
        ConfigurationError: for a negative or undefined epsilon.
    """
    (only,) = deltas(steps, epsilons=(epsilon,))
    return only


def deltas(
    steps: Sequence[PrivateSteps], *, epsilons: Sequence[float | int], coarser: float | int = 1
) -> tuple[float, ...]:
    """Delta of all steps together at each of some epsilons >= 0: :func:`delta`, the steps composed once.

    Args:
        steps: everything that was released.
        epsilons: at which.
        coarser: factor by which the grid of the privacy loss is wider: faster, and bounds all the same.

    Raises:
        VerificationError: for anything that is not :class:`PrivateSteps`.
        ConfigurationError: for a negative or undefined epsilon.
    """
    wrong = [one for one in epsilons if not 0 <= one < math.inf]
    if wrong:
        raise ConfigurationError(f"Expected a finite epsilon >= 0, got {wrong[0]}")
    merged = merge(steps)
    if not merged:
        return (0.0,) * len(epsilons)
    if all(step.sample_rate == 1 for step in merged):
        mu = gaussian_mu(merged)
        return tuple(gaussian_delta(mu, epsilon=one) for one in epsilons)
    return tuple(map(float, composed(merged, coarser).get_delta_for_epsilon(list(epsilons))))


def noise_multiplier(
    target_epsilon: float | int, *, sample_rate: float | int, count: int, delta: float | int
) -> float:
    """The smallest noise multiplier, within 1e-3 from above, whose steps cost at most ``target_epsilon``.

    Raises:
        ConfigurationError: for values out of range.
    """
    if not 0 < target_epsilon < math.inf:
        raise ConfigurationError(f"Expected a finite target_epsilon > 0, got {target_epsilon}")
    check_delta(delta)

    def excess(sigma: float) -> float:
        steps = PrivateSteps(sample_rate=sample_rate, noise_multiplier=sigma, count=count)
        return epsilon([steps], delta=delta) - target_epsilon

    PrivateSteps(sample_rate=sample_rate, noise_multiplier=1.0, count=count)
    enough = math.sqrt(count) / _gaussian_mu_of(target_epsilon, delta=delta) + SIGMA_TOLERANCE / 4
    if sample_rate == 1:
        return enough
    low = enough / 2
    while excess(low) <= 0:  # the whole cohort's noise is always enough: sampling only helps
        enough, low = low, low / 2
    root = _root(excess, low, enough, tolerance=SIGMA_TOLERANCE / 8)
    while excess(root) > 0:
        root += SIGMA_TOLERANCE / 4
    return root


def merge(steps: Iterable[object]) -> tuple[PrivateSteps, ...]:
    """Steps of equal kind added up, in a fixed order.

    Raises:
        VerificationError: for anything that is not :class:`PrivateSteps`.
    """
    counts: Counter[tuple[float, float]] = Counter()
    for step in steps:
        if not isinstance(step, PrivateSteps):
            raise VerificationError(
                f"Expected PrivateSteps, got {type(step).__name__}: an event of unknown cost cannot be accounted"
            )
        counts[step.sample_rate, step.noise_multiplier] += step.count
    return tuple(
        PrivateSteps(sample_rate=rate, noise_multiplier=sigma, count=count)
        for (rate, sigma), count in sorted(counts.items())
    )


def check_delta(delta: float | int) -> None:
    """Refuse a delta outside (0, 1).

    Raises:
        ConfigurationError: for such a delta.
    """
    if not 0 < delta < 1:
        raise ConfigurationError(f"Expected delta in (0, 1), got {delta}: a usual value is 1e-5")


def gaussian_mu(steps: Iterable[PrivateSteps]) -> float:
    """The steps' noise as that of one Gaussian release of the whole cohort: mu = sqrt(sum count / sigma^2)."""
    return math.sqrt(math.fsum(step.count / step.noise_multiplier**2 for step in steps))


def gaussian_delta(mu: float | int, *, epsilon: float | int) -> float:
    """Delta of one Gaussian release: Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu), exact."""
    from scipy.special import log_ndtr  # noqa: PLC0415  as below

    first, second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(math.exp(first) * -math.expm1(min(0.0, second - first)))


def gaussian_epsilon(mu: float | int, *, delta: float | int) -> float:
    """Epsilon of one Gaussian release of sensitivity over noise ``mu``: the inverse of the closed form."""

    def excess(value: float) -> float:
        return gaussian_delta(mu, epsilon=value) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1
    return _root(excess, 0.0, high, tolerance=1e-12)


def grid(steps: Iterable[PrivateSteps]) -> float:
    """Grid of the privacy loss that fits the width of the composed loss: FINEST times a power of two."""
    width = math.sqrt(
        math.fsum(
            step.count
            * min(
                step.sample_rate**2 * math.expm1(min(step.noise_multiplier**-2, 500.0)),
                step.noise_multiplier**-2,
            )
            for step in steps
        )
    )
    return FINEST * 2.0 ** max(0, math.ceil(math.log2(width)))


def _gaussian_mu_of(target_epsilon: float | int, *, delta: float | int) -> float:
    def excess(log_mu: float) -> float:
        return gaussian_epsilon(math.exp(log_mu), delta=delta) - target_epsilon

    low, high = math.log(target_epsilon) - 12, math.log(target_epsilon + 2) + 1
    return math.exp(_root(excess, low, high, tolerance=1e-12) - 1e-11)


def _root(function: Callable[[float], float], low: float, high: float, *, tolerance: float) -> float:
    from scipy.optimize import brentq  # noqa: PLC0415  half a second, and most commands only read what was accounted

    return float(brentq(function, low, high, xtol=tolerance))


def composed(merged: Sequence[PrivateSteps], coarser: float | int = 1) -> PrivacyLossDistribution:
    """All steps' privacy loss: those of the whole cohort as one Gaussian, the others kind by kind.

    Args:
        merged: at least one.
        coarser: see :func:`deltas`.
    """
    whole = [step for step in merged if step.sample_rate == 1]
    parts = [(step.sample_rate, step.noise_multiplier, step.count) for step in merged if step.sample_rate < 1]
    if whole:
        parts.append((1.0, 1 / gaussian_mu(whole), 1))
    interval = grid(merged) * coarser
    losses = [_one_step(rate, sigma, interval).self_compose(count) for rate, sigma, count in parts]
    return reduce(lambda one, other: one.compose(other), losses)


@lru_cache(maxsize=32)
def _one_step(
    sample_rate: float | int, noise_multiplier: float | int, interval: float
) -> PrivacyLossDistribution:
    from dp_accounting import NeighboringRelation  # noqa: PLC0415  (seconds)
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=interval,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
