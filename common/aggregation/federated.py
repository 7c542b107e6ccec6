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
from common.training.local import GradientTerm, LocalUpdate, train_network
from common.training.local_settings import LocalSettings

WEIGHTS = "weights"
UPDATE = "update"
OPTIMISER = "optimiser."
"""Before the names of what an optimiser keeps, in a site's state."""
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
    """

    kept: ClassVar[tuple[str, ...]]
    sent: ClassVar[tuple[str, ...]]

    @property
    def keeps_state(self) -> bool:
        """Whether a site keeps something from round to round."""
        ...

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
class LocalRound:
    """What a site has for its round; see :meth:`FederatedAlgorithm.local_update`.

    Attributes:
        keeps_optimiser: whether its optimiser goes on where the round before left it.
    """

    received: Received
    site_state: SiteState
    data: ExamTensors
    settings: LocalSettings
    server_round: int
    seed: int
    keeps_optimiser: bool = False

    @property
    def optimiser(self) -> SiteState:
        """What the optimiser of the round before left, where it goes on."""
        return {
            name.removeprefix(OPTIMISER): values
            for name, values in self.site_state.items()
            if self.keeps_optimiser and name.startswith(OPTIMISER)
        }

    def kept(self, after: Mapping[str, Tensor]) -> SiteState:
        """What is kept of what an optimiser is left with."""
        if not self.keeps_optimiser:
            return {}
        return {f"{OPTIMISER}{name}": values for name, values in after.items()}

    def train(
        self, weights: Float32[Tensor, " size"], *, term: GradientTerm | None = None
    ) -> tuple[LocalUpdate, SiteState]:
        """See :func:`common.training.local.train_network`; of the site's state the optimiser's part alone."""
        update, after = train_network(
            weights, self.optimiser, self.data, self.settings, self.server_round, self.seed, term=term
        )
        return update, self.kept(after)


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017, algorithm 1).

    The other algorithms inherit from it: each says only what it does otherwise, which is how their papers put it.

    Attributes:
        keeps_optimiser: whether a site's optimiser goes on from round to round (its state stays at the site), or
            starts afresh in each.
    """

    keeps_optimiser: bool = False
    kept: ClassVar[tuple[str, ...]] = ()
    sent: ClassVar[tuple[str, ...]] = ()

    @property
    def keeps_state(self) -> bool:
        """See :class:`FederatedAlgorithm`."""
        return self.keeps_optimiser

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
        return self.trained(
            LocalRound(
                received=received,
                site_state=site_state,
                data=data,
                settings=settings,
                server_round=server_round,
                seed=seed,
                keeps_optimiser=self.keeps_optimiser,
            )
        )

    def trained(self, local: LocalRound) -> tuple[LocalUpdate, SiteState]:
        """As :meth:`local_update`, with all that it is given in one."""
        return local.train(local.received[WEIGHTS])

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
