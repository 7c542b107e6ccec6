"""FedProx: a term that holds a site's weights near those that it received (Li et al. 2020, equation 2)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor

from common.aggregation.federated import WEIGHTS, FedAvg, LocalRound, SiteState
from common.training.flat_network import flat_network
from common.training.local import LocalUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class ProximalTerm:
    """The gradient of mu / 2 * |w - w_received|^2.

    Attributes:
        mu: its strength.
        received: the received values of the parameters that train, on the training device.
    """

    mu: float
    received: Float32[Tensor, " trained"]

    def add(
        self,
        gradient: Float32[Tensor, " trained"],
        weights: Float32[Tensor, " trained"],
        *,
        learning_rate: float,
    ) -> None:
        """See :class:`common.training.local.GradientTerm`."""
        del learning_rate
        gradient.add_(weights - self.received, alpha=self.mu)


@dataclass(frozen=True, slots=True, kw_only=True)
class FedProx(FedAvg):
    """Federated averaging of updates that a proximal term keeps short.

    Attributes:
        mu: > 0; the larger, the less a site departs from what it received.
    """

    mu: float

    def trained(self, local: LocalRound) -> tuple[LocalUpdate, SiteState]:
        """See :meth:`common.aggregation.federated.FedAvg.trained`."""
        weights, settings = local.received[WEIGHTS], local.settings
        layout = flat_network(settings.spec, settings.network, settings.device).layout
        term = ProximalTerm(mu=self.mu, received=weights[: layout.trained_size].to(settings.device))
        return local.train(weights, term=term)
