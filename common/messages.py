"""What centre and site say to each other, as typed values; :mod:`common.wire` packs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float32, Int64

from common.receipts import Receipt

Encoding = Literal["float32", "bfloat16"]
Weights = Float32[np.ndarray, " parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Asks a site whether it takes part in a campaign.

    Attributes:
        campaign: the campaign's name.
        request_id: drawn anew each time it is asked, so that no old answer fits.
        version: the centre's version of synofed.
        plan: canonical JSON of everything that changes what leaves the site.
        plan_hash: SHA-256 of ``plan``, in hex.
    """

    campaign: str
    request_id: str
    version: str
    plan: str
    plan_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReply:
    """A site's consent.

    Attributes:
        site: the site's name.
        version: the site's version of synofed.
        plan_hash: the hash that the site computed.
        usable: measurement -> usable exams.
        public_key: Ed25519 key of the site's receipts, in hex.
    """

    site: str
    version: str
    plan_hash: str
    usable: Mapping[str, int]
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """Asks a site to train one group of networks for one round.

    Attributes:
        campaign: the campaign's name.
        plan_hash: the plan that the site agreed to.
        request_id: names this request; the same id gets the same reply.
        group: the group's name.
        server_round: counts from 1; ``rounds + 1`` scores the final weights without training.
        encoding: how the weights are written, and are to be written in the reply.
        weights: network name -> flat weights.
        layouts: network name -> hash of the layout of its flat weights.
    """

    campaign: str
    plan_hash: str
    request_id: str
    group: str
    server_round: int
    encoding: Encoding
    weights: Mapping[str, Weights]
    layouts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkReply:
    """What one network's round gave at a site.

    Attributes:
        update: trained minus received weights; ``None`` where nothing was trained.
        num_examples: exams before resampling; the weight in FedAvg.
        loss: mean training loss; NaN where nothing was trained.
        histograms: counts of validation scores of the received weights, class x bin; ``None`` where the site's
            policy keeps them.
    """

    update: Weights | None
    num_examples: int
    loss: float
    histograms: Int64[np.ndarray, "2 256"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReply:
    """A site's answer to a :class:`TrainRequest`."""

    site: str
    request_id: str
    networks: Mapping[str, NetworkReply]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A site's answer when it did not do what was asked: a fixed code, never an exception's text."""

    site: str
    code: str


Reply = TypeVar("Reply", PlanReply, TrainReply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Generic[Reply]):
    """A reply as it arrived.

    Attributes:
        reply: what the site answered.
        receipt: what the site signed; not yet checked.
        contents_hash: of what really arrived.
    """

    reply: Reply
    receipt: Receipt
    contents_hash: str
