"""Other ways to account for the same steps, to hold the product's numbers against."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import reduce

import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld
from opacus.accountants import PRVAccountant

from common.privacy.accounting.accounting import (
    PrivateSteps,
    check_delta,
    epsilon,
    gaussian_epsilon,
    gaussian_mu,
    grid,
    merge,
)


def epsilon_prv(
    steps: Sequence[PrivateSteps], *, delta: float | int, error: float | int | None = None
) -> float:
    """The second opinion: the upper bound of Opacus's PRV accountant.

    Args:
        steps: everything that was released.
        delta: in (0, 1).
        error: how far the bound may lie above the truth; by default 0.01, or 1 % of :func:`epsilon` if larger
            (time and memory grow with epsilon over error).

    Raises:
        VerificationError: for anything that is not :class:`PrivateSteps`.
        ConfigurationError: for a delta out of range.
    """
    check_delta(delta)
    merged = merge(steps)
    if not merged:
        return 0.0
    accountant = PRVAccountant()
    accountant.history = [(step.noise_multiplier, step.sample_rate, step.count) for step in merged]
    allowed = max(0.01, 0.01 * epsilon(merged, delta=delta)) if error is None else error
    with np.errstate(divide="ignore"), warnings.catch_warnings():  # log(1 - sample_rate) of the whole cohort
        warnings.filterwarnings(
            "ignore", message="Optimal order is the largest alpha"
        )  # only bounds its grid
        return float(accountant.get_epsilon(delta, eps_error=allowed))


def epsilon_replaced(steps: Sequence[PrivateSteps], *, delta: float | int) -> float:
    """One patient replaced by another, the number of patients being known."""
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
