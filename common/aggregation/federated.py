"""What a federated algorithm is to the engine, and the plainest one: federated averaging.

All of it is pure. An algorithm says by name what it keeps and sends beside the weights, so that both sides can
check what arrives, and the cost card can count it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from common.errors import UpdateError
from common.networks.layout import Layout
from common.training.data import ExamTensors
from common.training.local import LocalUpdate, train_network
from common.training.local_settings import LocalSettings

WEIGHTS = "weights"
UPDATE = "update"
SiteState = Mapping[str, Tensor]
Flat = Float32[np.ndarray, " _"]
Received = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What the centre keeps of one network between rounds.

    Attributes:
        arrays: ``weights``, one value a number of the layout, and what the algorithm's ``kept`` names.
    """

    arrays: Mapping[str, Flat]

    @property
    def weights(self) -> Flat:
        """The network's weights."""
        return self.arrays[WEIGHTS]


@runtime_checkable
class FederatedAlgorithm(Protocol):
    """A federated algorithm for one network.

    Attributes:
        kept: further arrays of the centre's state, float32, one value per trained parameter each.
        sent: further arrays of the same size that travel down with the weights and up with the update.
        keeps_state: whether a site keeps something from round to round.
    """

    kept: ClassVar[tuple[str, ...]]
    sent: ClassVar[tuple[str, ...]]
    keeps_state: ClassVar[bool]

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        """The state before round 1."""
        ...

    def broadcast(self, state: ServerState) -> Mapping[str, Flat]:
        """What travels to the sites: ``weights`` and what ``sent`` names."""
        ...

    def scored_weights(
        self, received: Received, site_state: SiteState, settings: LocalSettings
    ) -> Float32[Tensor, " size"]:
        """The weights with which a site scores its validation exams."""
        ...

    def local_update(
        self,
        received: Received,
        site_state: SiteState,
        data: ExamTensors,
        settings: LocalSettings,
        server_round: int,
        seed: int,
    ) -> tuple[LocalUpdate, SiteState]:
        """One site's round: what it sends, and what it keeps.

        Args:
            received: what :meth:`broadcast` sent.
            site_state: what the site kept of its last round that counted; empty before the first.
            data: the site's exams.
            settings: what to train and how.
            server_round: counts from 1.
            seed: all randomness of this round.
        """
        ...

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        """The state after a round.

        Args:
            state: before it.
            means: of the sites' ``update`` and of what ``sent`` names.
            participation: share of the campaign's sites whose replies are in the means, in [0, 1].
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017, algorithm 1).

    The other algorithms inherit from it: each says only what it does otherwise, which is how their papers put it.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    sent: ClassVar[tuple[str, ...]] = ()
    keeps_state: ClassVar[bool] = False

    def init(self, weights: Flat, layout: Layout) -> ServerState:
        """See :class:`FederatedAlgorithm`."""
        del layout
        return ServerState(arrays={WEIGHTS: weights})

    def broadcast(self, state: ServerState) -> Mapping[str, Flat]:
        """See :class:`FederatedAlgorithm`."""
        return {WEIGHTS: state.weights}

    def scored_weights(
        self, received: Received, site_state: SiteState, settings: LocalSettings
    ) -> Float32[Tensor, " size"]:
        """See :class:`FederatedAlgorithm`."""
        del site_state, settings
        return received[WEIGHTS]

    def local_update(
        self,
        received: Received,
        site_state: SiteState,
        data: ExamTensors,
        settings: LocalSettings,
        server_round: int,
        seed: int,
    ) -> tuple[LocalUpdate, SiteState]:
        """See :class:`FederatedAlgorithm`."""
        return train_network(received[WEIGHTS], site_state, data, settings, server_round, seed)

    def aggregate(
        self, state: ServerState, means: Mapping[str, Flat], *, participation: float
    ) -> ServerState:
        """See :class:`FederatedAlgorithm`."""
        del participation
        return ServerState(arrays={WEIGHTS: state.weights + means[UPDATE]})


def check_sent(arrays: Mapping[str, Flat], algorithm: FederatedAlgorithm, *, trained: int) -> None:
    """Whether the further arrays of a message are those that the algorithm sends.

    Args:
        arrays: by name.
        algorithm: says which.
        trained: parameters of the network, the size of each.

    Raises:
        UpdateError: if one is missing, unknown, of another size, or not finite.
    """
    if set(arrays) != set(algorithm.sent):
        raise UpdateError(f"Expected the further arrays {sorted(algorithm.sent)}, got {sorted(arrays)}")
    for name, values in arrays.items():
        if values.shape != (trained,):
            raise UpdateError(f"Expected {trained} values of {name}, got {values.shape}")
        if not np.isfinite(values).all():
            raise UpdateError(f"Expected finite numbers in {name}, got NaN or infinity")
