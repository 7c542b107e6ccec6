"""FedBN: each site keeps its own normalisation layers (Li et al. 2021, algorithm 1).

A site trains the received weights with its own norms in their place, and keeps what these become. It scores its
validation exams with its own norms too.

Beyond the paper, which leaves open what a site without norms uses: the difference between a site's norms and the
received ones travels within its update. So the centre holds the weighted mean of all sites' norms, and that is what
the centre, a site that joins, and a device that no site has use.

Norms are told by the type of module, not by name: BatchNorm with its running statistics, GroupNorm, LayerNorm,
InstanceNorm. GroupNorm keeps no statistics, so with it FedBN is about scales and offsets alone. A network without
norms, like VGG-16 or a head, is trained as FedAvg does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float32, Int
from torch import Tensor

from common.aggregation.federated import WEIGHTS, FedAvg, LocalRound, Received, SiteState
from common.errors import UpdateError
from common.training.flat_network import flat_network
from common.training.local import LocalUpdate
from common.training.local_settings import LocalSettings

NORMS = "norms"


@dataclass(frozen=True, slots=True, kw_only=True)
class FedBN(FedAvg):
    """Federated averaging of all but the norms, which stay as each site trains them."""

    @property
    def keeps_state(self) -> bool:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return True

    def scored_weights(
        self, received: Received, site_state: SiteState, settings: LocalSettings
    ) -> Float32[Tensor, " size"]:
        """See :class:`common.aggregation.federated.FederatedAlgorithm`."""
        return with_norms(received[WEIGHTS], site_state, settings)

    def trained(self, local: LocalRound) -> tuple[LocalUpdate, SiteState]:
        """See :meth:`common.aggregation.federated.FedAvg.trained`."""
        start = with_norms(local.received[WEIGHTS], local.site_state, local.settings)
        answer, optimiser = local.train(start)
        norms = _norms(local.settings)
        trained = (start + answer.update)[norms]
        update = answer.update.clone()
        update[norms] = trained - local.received[WEIGHTS][norms]
        return replace(answer, update=update), {NORMS: trained, **optimiser}


def with_norms(
    weights: Float32[Tensor, " size"], site_state: SiteState, settings: LocalSettings
) -> Float32[Tensor, " size"]:
    """Weights with a site's own norms in place; those that it received where it has none yet.

    Raises:
        UpdateError: if the site's norms are of another network.
    """
    if NORMS not in site_state:
        return weights
    norms = _norms(settings)
    if site_state[NORMS].shape != norms.shape:
        raise UpdateError(f"Expected {len(norms)} values of norms, got {tuple(site_state[NORMS].shape)}")
    personal = weights.clone()
    personal[norms] = site_state[NORMS]
    return personal


def _norms(settings: LocalSettings) -> Int[Tensor, " norms"]:
    return flat_network(settings.spec, settings.network, settings.device).norms
