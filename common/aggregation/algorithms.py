"""Federated algorithms: ``init``, ``broadcast``, ``local_update`` at the site, ``aggregate`` at the centre.

All four are pure. Site state stays at the site (none of the two here keeps any).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from common.errors import ConfigurationError
from common.settings import FederationSettings
from common.training.data import ExamTensors
from common.training.local import LocalUpdate, train_network
from common.training.local_settings import LocalSettings

SiteState = Mapping[str, Tensor]
Flat = Float32[np.ndarray, " parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What the centre keeps of one network between rounds."""

    weights: Flat


@runtime_checkable
class FederatedAlgorithm(Protocol):
    """A federated algorithm for one network."""

    def init(self, weights: Flat) -> ServerState:
        """The state before round 1."""
        ...

    def broadcast(self, state: ServerState) -> Flat:
        """The weights that travel to the sites."""
        ...

    def local_update(
        self,
        weights: Float32[Tensor, " parameters"],
        site_state: SiteState,
        data: ExamTensors,
        settings: LocalSettings,
        server_round: int,
        seed: int,
    ) -> tuple[LocalUpdate, SiteState]:
        """One site's round."""
        ...

    def aggregate(self, state: ServerState, mean_update: Flat) -> ServerState:
        """The state after a round, from the weighted mean of the sites' updates."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017); with ``proximal_mu`` > 0, FedProx (Li et al. 2020, eq. 2)."""

    proximal_mu: float = 0.0

    def init(self, weights: Flat) -> ServerState:
        """See :class:`FederatedAlgorithm`."""
        return ServerState(weights=weights)

    def broadcast(self, state: ServerState) -> Flat:
        """See :class:`FederatedAlgorithm`."""
        return state.weights

    def local_update(
        self,
        weights: Float32[Tensor, " parameters"],
        site_state: SiteState,
        data: ExamTensors,
        settings: LocalSettings,
        server_round: int,
        seed: int,
    ) -> tuple[LocalUpdate, SiteState]:
        """See :class:`FederatedAlgorithm`."""
        proximal = replace(settings, proximal_mu=self.proximal_mu)
        return train_network(weights, site_state, data, proximal, server_round, seed)

    def aggregate(self, state: ServerState, mean_update: Flat) -> ServerState:
        """See :class:`FederatedAlgorithm`."""
        return ServerState(weights=state.weights + mean_update)


def algorithm(settings: FederationSettings) -> FederatedAlgorithm:
    """The algorithm that the settings name.

    Raises:
        ConfigurationError: if FedProx has no positive mu, or FedAvg has one.
    """
    if (settings.algorithm == "fedprox") != (settings.proximal_mu > 0):
        raise ConfigurationError(
            f"Expected federation.proximal_mu > 0 with fedprox and 0 with fedavg, "
            f"got {settings.algorithm} with {settings.proximal_mu}"
        )
    return FedAvg(proximal_mu=settings.proximal_mu)
