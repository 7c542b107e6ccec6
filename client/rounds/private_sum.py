"""A private round under secure aggregation: each patient's gradient on a grid, this site's share of the noise.

As :mod:`client.rounds.private_round`, but what is booked is the noise of the whole sum: with the fewest survivors
that the plan permits, less those who may collude, it is as much. It is booked before it is drawn.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64

from client.rounds import private_round
from client.rounds.booking import begin
from client.site.site import Site
from common.errors import PolicyError
from common.messages import MissingWeights, TrainRequest
from common.methods.rounds import stage_rounds
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.patient_step import clipped_each, sample
from common.privacy.mechanism.private_sum import PrivateSum
from common.settings import Settings


def vector(
    site: Site,
    request: TrainRequest,
    settings: Settings,
    plan: PrivateSum,
    *,
    noise: Literal["share", "full"],
    device: torch.device,
    asker: str,
) -> Int64[np.ndarray, " length"] | MissingWeights:
    """What goes under the masks, booked; or which frozen weights are not in the site's cache.

    Args:
        site: the site.
        request: which networks, from which weights.
        settings: of the campaign, as the site approved it.
        plan: of its sums.
        noise: this site's share, or all of it.
        device: where the features are computed.
        asker: the run, which may make several attempts at a round, each charged, of which one is opened.

    Raises:
        PolicyError: if the round is none of the plan's, or the policy permits no private release.
        UnapprovedError: if another run has asked for the round.
        UpdateError: if a network is not in the plan, or a head of it is missing, or weights are not what the plan
            says.
        BudgetError: if the release is beyond the policy's cap, or beyond what was approved; nothing is drawn.
        StorageError: if it cannot be booked; nothing is drawn.
    """
    work = private_round.prepare(site, request, settings, device=device)
    if isinstance(work, MissingWeights):
        return work
    rounds = stage_rounds(work.planned.values(), settings)
    if request.server_round > rounds:
        raise PolicyError(
            f"Expected a round from 1 to {rounds}, got {request.server_round}: a secure sum that is private is never "
            f"scored"
        )
    booking = begin(site, request, settings, work.patients, asker=asker)
    weights, places = private_round.vector_of(request, work), _places(work, request)
    step = booking.step
    drawn = booking.draw()
    chosen = sample(
        private_round.taking_part(work, drawn.patients),
        step.sample_rate,
        stream=KeyStream(drawn.entropy, "sampling"),
    )
    gradients = clipped_each(weights, chosen, max_norm=step.max_grad_norm)
    return plan.vector((one.numpy()[places] for one in gradients), noise=noise, entropy=drawn.entropy)


def _places(work: private_round.Work, request: TrainRequest) -> Int64[np.ndarray, " length"]:
    """Where each number of the request's networks, in their order, stands in the heads' common vector."""
    ends = np.cumsum([len(request.weights[name]) for name in work.order])
    starts = dict(zip(work.order, [0, *ends[:-1]], strict=True))
    places: Int64[np.ndarray, " length"] = np.concatenate(
        [starts[name] + np.arange(len(values)) for name, values in request.weights.items()]
    )
    return places
