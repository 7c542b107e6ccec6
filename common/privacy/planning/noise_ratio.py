"""How much noise there is beside what can be learnt, and what that has meant so far.

The signal is at most the clipping norm C: that long is the mean of the patients' clipped gradients if all of them
point the same way, and shorter otherwise. The noise in the mean over q N patients is ``sigma C / (q N)`` in each of d
numbers, together ``sigma C sqrt(d) / (q N)`` long. Over T steps signals add up and noise adds in quadrature, so that
a whole campaign has 1 / sqrt(T) of a step's ratio. For the whole cohort that is ``sqrt(d) / (mu N)``, whatever T:
budget, patients and size of what is trained are all that counts.

Where every one of S sites adds noise of its own, there is sqrt(S) times as much of it in their sum. Under secure
aggregation each adds sigma^2 / (U - t), for U survivors of which t may collude: sqrt(S / (U - t)).

**What the ratio has meant.** For heads, two facts of 792 numbers (two measurements, three members, linear heads of
four grades on 32 features):

* one site of 150 patients at epsilon 3 (mu 0.72) is a documented failure: :data:`FAILURE`;
* the goal, weighted kappa at most 0.05 below that without privacy, is set for 450 patients at epsilon 8 (mu 1.67),
  noise added once: :data:`GOAL`.

Whole networks bear more, for their gradients lie in few directions: 5,544 weights at a ratio of 0.43 reached kappa
0.75 on phantoms, 0.84 without privacy. Known to be hopeless is the published one, 22.6 million weights at epsilon 8
and 150 patients: :data:`FAILURE_OF_NETWORKS`.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from common.errors import ConfigurationError

REFERENCE_WEIGHTS = 792
FAILURE = math.sqrt(REFERENCE_WEIGHTS) / (0.72 * 150)
FAILURE_OF_NETWORKS = math.sqrt(22_615_938) / (1.666 * 150) * (1 - 1e-3)
GOAL = math.sqrt(REFERENCE_WEIGHTS) / (1.666 * 450)
GOAL_KAPPA = 0.05
"""Loss of weighted kappa that is aimed at, at most."""
NO_PROTECTION = math.log(1e6)
"""Epsilon at which the odds that a patient took part can rise a million-fold."""

Verdict: TypeAlias = Literal["no protection", "hopeless", "doubtful", "worth a trial"]
MEANING: dict[Verdict, str] = {
    "no protection": "whoever looks closely may become all but certain who took part",
    "hopeless": "more noise than where one site of 150 patients at epsilon 3 learns nothing of use",
    "doubtful": "more noise than the goal, a loss of at most 0.05 weighted kappa, allows",
    "worth a trial": "no more noise than the goal, a loss of at most 0.05 weighted kappa, allows",
}


def a_step(
    *,
    noise_multiplier: float | int,
    weights: int,
    patients: float | int,
    sample_rate: float | int,
    spread: float | int = 1.0,
) -> float:
    """Length of a step's noise over the clipping norm.

    Args:
        noise_multiplier: sigma.
        weights: numbers that are clipped and noised as one (d).
        patients: behind them, at all sites together (N).
        sample_rate: q.
        spread: how many times the noise of one release there is in the sum over the sites.
    """
    return noise_multiplier * math.sqrt(weights) * spread / (sample_rate * patients)


def campaign(step: float | int, *, steps: int) -> float:
    """The same over this many steps."""
    return step / math.sqrt(steps)


def own_noise(sites: int) -> float:
    """Spread where each site adds all the noise."""
    return math.sqrt(sites)


def shared_noise(sites: int, *, survivors: int, colluders: int) -> float:
    """Spread under secure aggregation, all sites surviving.

    Raises:
        ConfigurationError: unless colluders < survivors <= sites.
    """
    if not 0 <= colluders < survivors <= sites:
        raise ConfigurationError(
            f"Expected colluders < survivors <= sites, got {colluders}, {survivors} and {sites}"
        )
    return math.sqrt(sites / (survivors - colluders))


def verdict(
    noise: float | int, *, epsilon: float | int, heads: bool, kappa_loss: float | int | None = None
) -> Verdict:
    """In a word.

    Args:
        noise: of a whole campaign.
        epsilon: that it costs.
        heads: whether heads are trained, or whole networks.
        kappa_loss: that such noise brought on phantoms; it counts more than the facts above.
    """
    if epsilon > NO_PROTECTION:
        return "no protection"
    if kappa_loss is not None:
        return "worth a trial" if kappa_loss <= GOAL_KAPPA else "doubtful"
    if noise >= (FAILURE if heads else FAILURE_OF_NETWORKS):
        return "hopeless"
    return "doubtful" if noise > GOAL * (1 + 1e-3) else "worth a trial"
