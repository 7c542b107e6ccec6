"""An algorithm of one's own, as ``federation.algorithm`` names it: FedAvg with half a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from common.aggregation.federated import UPDATE, WEIGHTS, FedAvg, Flat, Received, ServerState, SiteState
from common.networks.layout import Layout
from common.sections.federation import FederationSettings
from common.training.data import ExamTensors
from common.training.local import LocalUpdate
from common.training.local_settings import LocalSettings


class Halved:
    """Half of the mean update is taken."""

    kept: ClassVar[tuple[str, ...]] = ()
    sent: ClassVar[tuple[str, ...]] = ()
    keeps_state: ClassVar[bool] = False

    def __init__(self, settings: FederationSettings) -> None:
        self._plain = FedAvg()

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        return self._plain.init(weights, layout)

    def broadcast(self, state: ServerState) -> Mapping[str, Flat]:
        return self._plain.broadcast(state)

    def scored_weights(
        self, received: Received, site_state: SiteState, settings: LocalSettings
    ) -> Float32[Tensor, " size"]:
        return self._plain.scored_weights(received, site_state, settings)

    def local_update(
        self,
        received: Received,
        site_state: SiteState,
        data: ExamTensors,
        settings: LocalSettings,
        server_round: int,
        seed: int,
    ) -> tuple[LocalUpdate, SiteState]:
        return self._plain.local_update(received, site_state, data, settings, server_round, seed)

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        return ServerState(arrays={WEIGHTS: state.weights + np.float32(0.5) * means[UPDATE]})
