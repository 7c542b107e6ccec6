"""An algorithm: momentum at the centre (Hsu et al. 2019), with a setting of its own.

``--set federation.algorithm=weighted_momentum:Momentum --set federation.options.beta=0.5``
"""

from collections.abc import Mapping

import numpy as np

from common.aggregation.federated import UPDATE, WEIGHTS, FedAvg, Flat, ServerState
from common.errors import ConfigurationError
from common.networks.layout import Layout
from common.sections.federation import FederationSettings


class Momentum(FedAvg):
    """Federated averaging whose mean update goes on in the direction of those before."""

    kept = ("velocity",)  # what the centre remembers beside the weights
    beta: np.float32

    def __init__(self, settings: FederationSettings) -> None:
        super().__init__(keeps_optimiser=settings.optimiser_state == "kept")
        beta = settings.options.get("beta", 0.9)
        if not isinstance(beta, int | float) or not 0 <= beta < 1:
            raise ConfigurationError(f"Expected federation.options.beta from 0 to below 1, got {beta!r}")
        object.__setattr__(
            self, "beta", np.float32(beta)
        )  # algorithms are values: nothing changes them later

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        velocity = np.zeros(layout.trained_size, dtype=np.float32)  # buffers behind them have no momentum
        return ServerState(arrays={WEIGHTS: weights, "velocity": velocity})

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        trained = len(state.arrays["velocity"])
        velocity = self.beta * state.arrays["velocity"] + means[UPDATE][:trained]
        weights = state.weights + means[UPDATE]
        weights[:trained] = state.weights[:trained] + velocity
        return ServerState(arrays={WEIGHTS: weights, "velocity": velocity})
