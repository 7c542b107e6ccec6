"""FedAdam and FedYogi as federated algorithms: sites train as in FedAvg, the centre takes an adaptive step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float32
from torch import Tensor

from common.aggregation.federated import UPDATE, WEIGHTS, FedAvg, Flat, Received, ServerState, SiteState
from common.aggregation.server_optimisers import AdaptiveOptimiser, Moments
from common.networks.layout import Layout
from common.training.data import ExamTensors
from common.training.local import LocalUpdate
from common.training.local_settings import LocalSettings

FIRST, SECOND = "first-moment", "second-moment"
_FEDAVG = FedAvg()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """FedAdam or FedYogi (Reddi et al. 2021, algorithm 2); see :mod:`common.aggregation.server_optimisers`.

    Attributes:
        optimiser: the centre's.
    """

    optimiser: AdaptiveOptimiser
    kept: ClassVar[tuple[str, ...]] = (FIRST, SECOND)
    sent: ClassVar[tuple[str, ...]] = ()
    keeps_state: ClassVar[bool] = False

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return _state(weights, self.optimiser.init(trained=layout.trained_size))

    def broadcast(self, state: ServerState) -> Mapping[str, Flat]:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return _FEDAVG.broadcast(state)

    def scored_weights(
        self, received: Received, site_state: SiteState, settings: LocalSettings
    ) -> Float32[Tensor, " size"]:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return _FEDAVG.scored_weights(received, site_state, settings)

    def local_update(
        self,
        received: Received,
        site_state: SiteState,
        data: ExamTensors,
        settings: LocalSettings,
        server_round: int,
        seed: int,
    ) -> tuple[LocalUpdate, SiteState]:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return _FEDAVG.local_update(received, site_state, data, settings, server_round, seed)

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        del participation
        moments = Moments(first=state.arrays[FIRST], second=state.arrays[SECOND])
        return _state(*self.optimiser.step(state.weights, means[UPDATE], moments))


def _state(weights: Flat, moments: Moments) -> ServerState:
    return ServerState(arrays={WEIGHTS: weights, FIRST: moments.first, SECOND: moments.second})
