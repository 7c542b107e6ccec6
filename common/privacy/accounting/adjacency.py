"""The same releases for several patients at once, under its own name.

Everywhere else epsilon is for **one patient added or removed**. Numbers under different definitions of neighbouring
data cannot be compared or added. How the same run reads, sample_rate 0.2, noise multiplier 4, 100 steps, delta 1e-5:

======================================  =======  =================================================================
neighbouring data                       epsilon  how
======================================  =======  =================================================================
one patient added or removed            2.10     :func:`common.privacy.accounting.accounting.epsilon`
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
from functools import reduce

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


def group_epsilon(steps: Sequence[PrivateSteps], *, patients: int, delta: float | int) -> float:
    """Of several patients, for example a family, all added or all removed; an upper bound by PLD.

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
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415  (seconds)
    from scipy.stats import binom  # noqa: PLC0415

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
