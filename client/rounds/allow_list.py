"""What may leave a site in a campaign with differential privacy: the noised sums, and nothing else.

==========================  ======================================================================
part of a reply             what may stand there
==========================  ======================================================================
names                       the site, the request's id, the request's networks in its order
update                      as many finite numbers as the network's weights in the request
number of examples          1, at every site
loss                        NaN
histograms, further arrays  none
sums for stacking           none
==========================  ======================================================================
"""

from __future__ import annotations

import math

import numpy as np

from common.errors import PolicyError
from common.messages import NetworkReply, TrainReply, TrainRequest

NUM_EXAMPLES = 1
"""A constant: sites weigh the same, and the true number would tell when somebody joins or leaves."""


def checked(reply: TrainReply, request: TrainRequest) -> TrainReply:
    """The reply, once everything in it was found on the list.

    Raises:
        PolicyError: naming what is not; nothing leaves.
    """
    if reply.request_id != request.request_id or list(reply.networks) != list(request.weights):
        raise PolicyError(
            "Expected a private reply to its own request and networks, got a different one: nothing leaves"
        )
    if reply.stacking:
        raise PolicyError("Expected no sums for stacking in a private reply, got some: nothing leaves")
    for name, network in reply.networks.items():
        _check(name, network, size=len(request.weights[name]))
    return reply


def _check(name: str, network: NetworkReply, *, size: int) -> None:
    update = network.update
    if update is not None and (update.dtype != np.float32 or update.shape != (size,)):
        raise PolicyError(
            f"Expected {size} numbers of {name} in a private reply, got {update.shape}: nothing leaves"
        )
    if update is not None and not np.isfinite(update).all():
        raise PolicyError(
            f"Expected finite numbers of {name} in a private reply, got NaN or infinity: nothing leaves"
        )
    beside = {
        "a number of examples": network.num_examples != NUM_EXAMPLES,
        "a loss": not math.isnan(network.loss),
        "histograms": network.histograms is not None,
        "further arrays": bool(network.extra),
    }
    found = [what for what, there in beside.items() if there]
    if found:
        raise PolicyError(
            f"Expected nothing beside the update of {name} in a private reply, got {found}: nothing leaves"
        )
