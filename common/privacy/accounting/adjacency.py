"""The same releases under other definitions of neighbouring data, each under its own name.

Everywhere else epsilon is for **one patient added or removed**. Numbers under different definitions cannot be
compared or added; a :class:`Guarantee` says which one it is. How the same run reads, sample_rate 0.2, noise
multiplier 4, 100 steps, delta 1e-5:

======================================  =======  =================================================================
neighbouring data                       epsilon  how
======================================  =======  =================================================================
one patient added or removed            2.10     :func:`common.privacy.accounting.accounting.epsilon`
one patient replaced by another         4.36     PLD of the pair of shifts; whole cohort: exact, noise halved
two patients added or removed           4.63     PLD of the mixture of Gaussians over how many are sampled
eight patients added or removed         26.1     the same
======================================  =======  =================================================================

The last row is also what a guarantee for single **images** is worth to a patient with eight of them: clip and sample
images one by one, account 2.1, and the patient has 26. That is why the unit here is the patient from the start.

Sources: Zhu et al. 2022, arXiv 2106.08567 (dominating pairs); Ganesh 2024, arXiv 2401.10294 (groups under Poisson
sampling: a mixture of Gaussians with Binomial(k, q) shifts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeAlias

from scipy.stats import binom

from common.errors import ConfigurationError
from common.privacy.accounting.accounting import (
    PrivateSteps,
    check_delta,
    epsilon,
    gaussian_epsilon,
    gaussian_mu,
    grid,
    merge,
)

Neighbours: TypeAlias = Literal["added_or_removed", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """An epsilon with all that it means nothing without.

    Attributes:
        epsilon: upper bound.
        delta: in (0, 1).
        neighbours: patients added or removed, or one replaced by another.
        patients: by how many patients neighbouring data differ.
        accountant: what computed it.
    """

    epsilon: float | int
    delta: float | int
    neighbours: Neighbours = "added_or_removed"
    patients: int = 1
    accountant: str = "PLD (dp-accounting)"

    def __str__(self) -> str:
        unit = "one patient" if self.patients == 1 else f"{self.patients} patients together"
        relation = self.neighbours.replace("_", " ")
        return (
            f"epsilon {self.epsilon:.3g} at delta {self.delta:g} for {unit} {relation}, by {self.accountant}"
        )


def guarantee(steps: Sequence[PrivateSteps], *, delta: float | int) -> Guarantee:
    """What everything is accounted in: one patient added or removed."""
    return Guarantee(epsilon=epsilon(steps, delta=delta), delta=delta)


def guarantee_replaced(steps: Sequence[PrivateSteps], *, delta: float | int) -> Guarantee:
    """One patient replaced by another, the number of patients being known.

    Raises:
        VerificationError: for anything that is not :class:`PrivateSteps`.
        ConfigurationError: for a delta out of range.
    """
    return Guarantee(epsilon=_epsilon_replaced(steps, delta=delta), delta=delta, neighbours="replaced")


def guarantee_group(steps: Sequence[PrivateSteps], *, patients: int, delta: float | int) -> Guarantee:
    """Several patients, for example a family, all added or all removed.

    Also what steps that clip and sample **images** cost a patient with that many images.

    Args:
        steps: everything that was released.
        patients: how many, >= 1.
        delta: in (0, 1), of the group.

    Raises:
        VerificationError: for anything that is not :class:`PrivateSteps`.
        ConfigurationError: for values out of range.
    """
    if patients < 1:
        raise ConfigurationError(f"Expected a group of at least one patient, got {patients}")
    value = _epsilon_group(steps, patients=patients, delta=delta)
    return Guarantee(epsilon=value, delta=delta, patients=patients)


def _epsilon_replaced(steps: Sequence[PrivateSteps], *, delta: float | int) -> float:
    from dp_accounting import NeighboringRelation  # noqa: PLC0415  (seconds)
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415

    check_delta(delta)
    merged = merge(steps)
    if all(step.sample_rate == 1 for step in merged):
        return gaussian_epsilon(2 * gaussian_mu(merged), delta=delta) if merged else 0.0
    losses = [
        pld.from_gaussian_mechanism(
            step.noise_multiplier,
            sampling_prob=step.sample_rate,
            value_discretization_interval=4 * grid(merged),
            neighboring_relation=NeighboringRelation.REPLACE_ONE,
        ).self_compose(step.count)
        for step in merged
    ]
    return float(reduce(lambda one, other: one.compose(other), losses).get_epsilon_for_delta(delta))


def _epsilon_group(steps: Sequence[PrivateSteps], *, patients: int, delta: float | int) -> float:
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415  (seconds)

    check_delta(delta)
    merged = merge(steps)
    if patients == 1 or not merged:
        return epsilon(merged, delta=delta)
    if all(step.sample_rate == 1 for step in merged):
        return gaussian_epsilon(patients * gaussian_mu(merged), delta=delta)
    shifts = range(patients + 1)
    losses = [
        pld.from_mixture_gaussian_mechanism(
            step.noise_multiplier,
            [float(shift) for shift in shifts],
            [float(binom.pmf(shift, patients, step.sample_rate)) for shift in shifts],
            value_discretization_interval=4 * patients * grid(merged),  # coarse: a mixture is slow to build
        ).self_compose(step.count)
        for step in merged
    ]
    return float(reduce(lambda one, other: one.compose(other), losses).get_epsilon_for_delta(delta))
