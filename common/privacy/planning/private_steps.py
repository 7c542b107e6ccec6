"""How many private steps a campaign takes, and how many in a round."""

from __future__ import annotations

from common.methods.stages import networks
from common.settings import Settings


def steps(settings: Settings) -> int:
    """Of a whole campaign: one per round for probes, whose heads are one vector; else those of every network.

    Raises:
        ConfigurationError: if the method cannot be used.
    """
    if settings.method == "probe":
        return settings.federation.rounds
    return sum(
        (spec.rounds or settings.federation.rounds) * (spec.training or settings.training).local_steps
        for spec in networks(settings).values()
    )


def steps_per_round(settings: Settings) -> int:
    """Private steps behind one reply: one clipped sum of all heads, or each local step of a network trained whole."""
    return 1 if settings.method == "probe" else settings.training.local_steps
