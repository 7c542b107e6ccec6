"""FedAdam and FedYogi as federated algorithms: sites train as in FedAvg, the centre takes an adaptive step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from common.aggregation.federated import UPDATE, WEIGHTS, FedAvg, Flat, ServerState
from common.aggregation.server_optimisers import AdaptiveOptimiser, Moments
from common.networks.layout import Layout

FIRST, SECOND = "first-moment", "second-moment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive(FedAvg):
    """FedAdam or FedYogi (Reddi et al. 2021, algorithm 2); see :mod:`common.aggregation.server_optimisers`.

    Attributes:
        optimiser: the centre's.
    """

    optimiser: AdaptiveOptimiser
    kept: ClassVar[tuple[str, ...]] = (FIRST, SECOND)

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return _state(weights, self.optimiser.init(trained=layout.trained_size))

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        del participation
        moments = Moments(first=state.arrays[FIRST], second=state.arrays[SECOND])
        return _state(*self.optimiser.step(state.weights, means[UPDATE], moments))


def _state(weights: Flat, moments: Moments) -> ServerState:
    return ServerState(arrays={WEIGHTS: weights, FIRST: moments.first, SECOND: moments.second})
