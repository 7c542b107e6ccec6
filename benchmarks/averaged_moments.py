"""AdamW's moments averaged at the centre with the weights, three times the bytes: an arm of ``federated_gap.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from common.aggregation.federated import (
    OPTIMISER,
    UPDATE,
    WEIGHTS,
    FedAvg,
    Flat,
    LocalRound,
    ServerState,
    SiteState,
)
from common.networks.layout import Layout
from common.sections.federation import FederationSettings
from common.training.local import LocalUpdate

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragedMoments(FedAvg):
    """Every site begins a round with the mean of all sites' moments after the round before."""

    kept: ClassVar[tuple[str, ...]] = MOMENTS
    sent: ClassVar[tuple[str, ...]] = MOMENTS

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        zeros = np.zeros(layout.trained_size, dtype=np.float32)
        return ServerState(arrays={WEIGHTS: weights, **dict.fromkeys(MOMENTS, zeros)})

    def broadcast(self, state: ServerState) -> Mapping[str, Flat]:
        return state.arrays

    def trained(self, local: LocalRound) -> tuple[LocalUpdate, SiteState]:
        steps = (local.server_round - 1) * local.settings.training.local_steps
        before = {OPTIMISER + name: local.received[name] for name in MOMENTS}
        begun = {**before, OPTIMISER + "step": torch.tensor(float(steps))} if steps else {}
        answer, after = replace(local, site_state=begun, keeps_optimiser=True).train(local.received[WEIGHTS])
        changes = {
            name: after.get(OPTIMISER + name, local.received[name]) - local.received[name] for name in MOMENTS
        }
        return replace(answer, extra=changes), {}

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        del participation
        moments = {name: state.arrays[name] + means[name] for name in MOMENTS}
        return ServerState(arrays={WEIGHTS: state.weights + means[UPDATE], **moments})


def algorithm(settings: FederationSettings) -> AveragedMoments:
    """``federation.algorithm = "averaged_moments:algorithm"``."""
    del settings
    return AveragedMoments()
