"""Whether a request to train is one of the plan's, looked at before anything is done for it."""

from __future__ import annotations

import numpy as np
import torch

from common.aggregation.algorithms import keeps_state
from common.aggregation.federated import FederatedAlgorithm, check_sent
from common.errors import PolicyError, UpdateError
from common.messages import TrainRequest
from common.methods.rounds import network_rounds
from common.methods.stages import networks
from common.networks.spec import NetworkSpec
from common.sections.networks import NetworkSettings
from common.settings import Settings
from common.training.flat_network import flat_network


def checked(
    request: TrainRequest, settings: Settings, federated: FederatedAlgorithm, *, device: torch.device
) -> dict[str, NetworkSpec]:
    """The networks that a request asks for, once all of it was found to be what the plan says.

    Args:
        request: what came.
        settings: of the campaign, as the site approved it.
        federated: its algorithm.
        device: where the networks will be trained.

    Raises:
        PolicyError: if it asks for a round that the plan does not have.
        UpdateError: if a network is not in the plan, or weights are not those of its layout, or not finite.
    """
    known = networks(settings)
    unknown = sorted(set(request.weights) - set(known))
    if unknown or not request.weights:
        raise UpdateError(f"Expected networks of the plan, got {unknown!s:.300}")
    if request.encoding != settings.federation.encoding:
        raise UpdateError(f"Expected encoding {settings.federation.encoding}, got {request.encoding}")
    if not set(request.frozen) | set(request.extra) <= set(request.weights):
        raise UpdateError(
            "Expected frozen parts and further arrays of the request's own networks only, got some of other networks"
        )
    if not set(request.attached) <= {ref.hash for parts in request.frozen.values() for ref in parts.values()}:
        raise UpdateError("Expected only attached weights that the request refers to, got different ones")
    if keeps_state(federated, settings.federation) and not 0 <= request.state_round < request.server_round:
        raise UpdateError(
            f"Expected state of a round before {request.server_round}, got {request.state_round}"
        )
    planned = {name: known[name] for name in request.weights}
    for spec in planned.values():
        _check_round(request.server_round, spec, settings)
        _check_network(request, spec, settings.network, federated, device=device)
    return planned


def _check_round(server_round: int, spec: NetworkSpec, settings: Settings) -> None:
    rounds = network_rounds(spec, settings)
    if not 1 <= server_round <= rounds + 1:  # one more scores the final weights
        raise PolicyError(
            f"Expected a round from 1 to {rounds + 1} of the plan for {spec.name}, got {server_round}"
        )


def _check_network(
    request: TrainRequest,
    spec: NetworkSpec,
    settings: NetworkSettings,
    federated: FederatedAlgorithm,
    *,
    device: torch.device,
) -> None:
    name = spec.name
    layout = flat_network(spec, settings, device).layout
    if request.layouts[name] != layout.hash:
        raise UpdateError(f"Expected the layout of {name} as in the plan, got a different one")
    weights = request.weights[name]
    if weights.shape != (layout.size,):
        raise UpdateError(f"Expected {layout.size} values of {name}, got {weights.shape}")
    if not np.isfinite(weights).all():
        raise UpdateError(f"Expected finite weights of {name}, got NaN or infinity")
    parts = sorted(piece.part for piece in spec.frozen)
    if sorted(request.frozen.get(name, {})) != parts:
        raise UpdateError(f"Expected references to the frozen parts {parts} of {name}, got different ones")
    check_sent(request.extra.get(name, {}), federated, trained=layout.trained_size)
