"""What a campaign's private steps are: their kind, their number, and the weights in their loss."""

from __future__ import annotations

from common.methods.rounds import network_rounds, total_rounds
from common.methods.stages import networks
from common.networks.spec import NetworkSpec
from common.settings import Settings

PRIVATE_SUM = "private-sum"
"""One clipped, noised sum over the heads of a round."""
PRIVATE_STEP = "private-step"
"""A step of one network that is trained whole."""


def kind(method: str) -> str:
    """What the releases of a campaign with this method are booked as."""
    return PRIVATE_SUM if method == "probe" else PRIVATE_STEP


def steps(settings: Settings) -> int:
    """Of a whole campaign: one per round for probes, whose heads are one vector; else those of every network.

    Raises:
        ConfigurationError: if the method cannot be used.
    """
    if settings.method == "probe":
        return total_rounds(settings)
    return sum(network_steps(spec, settings) for spec in networks(settings).values())


def network_steps(spec: NetworkSpec, settings: Settings) -> int:
    """Of a network that is trained whole, in all its rounds."""
    return network_rounds(spec, settings) * (spec.training or settings.training).local_steps


def steps_of_round(settings: Settings, server_round: int) -> int:
    """Of all replies to the round of a number, each drawn once, whichever stages have it.

    Raises:
        ConfigurationError: if the method cannot be used.
    """
    if settings.method == "probe":
        return 1
    return sum(
        (spec.training or settings.training).local_steps
        for spec in networks(settings).values()
        if server_round <= network_rounds(spec, settings)
    )


def steps_per_round(settings: Settings) -> int:
    """Private steps behind one reply: one clipped sum of all heads, or each local step of a network trained whole."""
    return 1 if settings.method == "probe" else settings.training.local_steps


def class_weights(spec: NetworkSpec, settings: Settings) -> tuple[float, ...]:
    """The plan's, of a network that tells grades apart; any other weighs its classes alike. Public constants."""
    assert settings.privacy is not None, "asked for campaigns with privacy alone"
    alike = (1.0,) * spec.target.classes
    if spec.target.kind != "nominal":
        return alike
    return settings.privacy.class_weights.get(spec.target.measurement, alike)
