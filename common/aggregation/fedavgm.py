"""FedAvgM: the centre takes the sites' mean update for a gradient, with Nesterov's momentum.

With D_t the mean update of round t (Hsu et al. 2019; the outer optimiser of DiLoCo, Douillard et al. 2023, where
the sites' own optimisers go on from round to round, ``federation.optimiser_state = "kept"``)::

    v_t = beta v_{t-1} + D_t                                              v_0 = 0
    w_t = w_{t-1} + eta (beta v_t + D_t)

as ``torch.optim.SGD(nesterov=True)`` has it. eta = 1 and beta = 0 is federated averaging. A network's floating
buffers are no parameters: they take the mean update as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.aggregation.federated import UPDATE, WEIGHTS, FedAvg, Flat, ServerState
from common.networks.layout import Layout

VELOCITY = "velocity"


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM(FedAvg):
    """Federated averaging with momentum at the centre.

    Attributes:
        learning_rate: eta > 0, the centre's.
        momentum: beta in [0, 1).
    """

    learning_rate: float = 0.7
    momentum: float = 0.9
    kept: ClassVar[tuple[str, ...]] = (VELOCITY,)

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        velocity = np.zeros(layout.trained_size, dtype=np.float32)
        return ServerState(arrays={WEIGHTS: weights, VELOCITY: velocity})

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        del participation
        trained = len(state.arrays[VELOCITY])
        update = means[UPDATE][:trained]
        velocity = np.float32(self.momentum) * state.arrays[VELOCITY] + update
        weights = state.weights + means[UPDATE]
        step = np.float32(self.learning_rate) * (np.float32(self.momentum) * velocity + update)
        weights[:trained] = state.weights[:trained] + step
        return ServerState(arrays={WEIGHTS: weights, VELOCITY: velocity})
