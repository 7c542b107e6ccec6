"""What of a plan is rehearsed: its private step, with the plan's own numbers."""

from __future__ import annotations

from dataclasses import replace

import torch

from common.methods.rounds import total_rounds
from common.methods.stages import networks
from common.privacy.accounting import of_plan
from common.privacy.audit.attacks import RehearsalParameters, Shares
from common.privacy.audit.rehearsed_steps import SLOW_CANARIES, SLOW_STEPS
from common.privacy.planning.private_steps import network_steps
from common.settings import Settings
from common.training.flat_network import flat_network

READ = 64
"""Numbers that the rehearsed network reads where networks are trained whole."""


def sizes_of(settings: Settings) -> dict[str, int]:
    """Network of a plan -> numbers of its update."""
    device = torch.device("cpu")
    return {
        name: flat_network(spec, settings.network, device).layout.size
        for name, spec in networks(settings).items()
    }


def parameters(settings: Settings) -> RehearsalParameters:
    """The rehearsal of a private plan; of whole networks, that of its longest one, and its first steps alone."""
    privacy = settings.privacy
    assert privacy is not None and settings.private
    planned = networks(settings)
    common = RehearsalParameters(
        steps=of_plan.steps(privacy, total_rounds(settings)),
        max_grad_norm=privacy.max_grad_norm,
        patients=privacy.patients,
        images=privacy.images,
        heads=1,
        features=READ,
        delta=privacy.delta,
    )
    if settings.method != "probe":
        longest = max(network_steps(spec, settings) for spec in planned.values())
        return replace(common, steps=of_plan.steps(privacy, min(longest, SLOW_STEPS)), trained="network")
    sizes, secure = sizes_of(settings), settings.federation.secure
    return replace(
        common,
        heads=len(sizes),
        features=max(size // planned[name].target.classes - 1 for name, size in sizes.items()),
        learning_rate=settings.probe.learning_rate,
        shares=None
        if secure is None
        else Shares(sites=secure.sites, survivors=secure.survivors, colluders=secure.colluders),
    )


def canaries(given: RehearsalParameters, asked: int) -> int:
    """How many there are, of so many that were asked for: fewer where each gradient is written out."""
    slow = given.trained == "network" or given.shares is not None
    return min(asked, SLOW_CANARIES) if slow else asked


def told(settings: Settings, given: RehearsalParameters, many: int) -> str:
    """What was rehearsed, in one sentence."""
    what = f"{given.heads} heads" if given.trained == "heads" else "one network trained whole"
    secure = " under secure aggregation" if given.shares is not None else ""
    return f"Rehearsed: {settings.name}, {what}{secure}, {given.steps.count} private steps, {many} canaries."
