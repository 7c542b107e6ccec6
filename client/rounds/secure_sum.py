"""A site's answers in the phases of a secure sum: the protocol, with this site's policy, keys and peers.

The protocol itself, and what it refuses, is :mod:`common.secure_aggregation.site`; every phase is a process of its
own, so what it needs of the one before lies on disk (:mod:`client.state.sum_state`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import numpy as np
from jaxtyping import Int64

from client.site import keys
from client.site.site import Site
from client.state import decisions
from client.state.sum_state import SumFile
from common import wire
from common.aggregation.update_sum import UpdateSum
from common.errors import PolicyError, UpdateError, VerificationError
from common.messages import SumRequest, sum_request_id
from common.privacy.mechanism.private_sum import PrivateSum
from common.sections.secure import SecureSettings
from common.secure_aggregation import site as protocol
from common.secure_aggregation.identity import Identity
from common.secure_aggregation.messages import (
    KeysRequest,
    MaskedReply,
    MaskedRequest,
    Reply,
    SharesRequest,
    SurvivorsRequest,
    UnmaskRequest,
)
from common.secure_aggregation.site_state import State
from common.secure_aggregation.terms import Terms
from common.settings import Settings

TOKEN = re.compile(r"[0-9a-f]{32}")
CONTENT = re.compile(r"[0-9a-f]{64}")
Groups: TypeAlias = Mapping[tuple[str, tuple[str, ...]], frozenset[str]]
"""A group's name and its networks -> what they learn."""
MAXIMUM_PACKED = 8
_packed: dict[str, Groups] = {}


def check(request: SumRequest, secure: SecureSettings | None) -> None:
    """Whether a request belongs to a secure sum of a plan with this section; asked before anything is done for it.

    Raises:
        PolicyError: if the plan has no secure sums.
        UpdateError: if its names are none.
        VerificationError: if what is to be trained is not what the attempt began with, at every site.
    """
    if secure is None:
        raise PolicyError(
            "Expected what the plan asks for, got a phase of a secure sum, of which it has none"
        )
    context = request.asks.context
    if not all(TOKEN.fullmatch(name) for name in (context.run, context.attempt)):
        raise UpdateError("Expected run and attempt IDs of 32 hex digits each, got something else")
    if CONTENT.fullmatch(context.content) is None:
        raise UpdateError("Expected the hash of what is to be summed, got something else")
    if request.request_id != sum_request_id(context, request.asks.phase):
        raise UpdateError(
            f"Expected the ID of phase {request.asks.phase} of this attempt, got a different one"
        )
    train = request.train
    if train is not None and (
        (train.campaign, train.plan_hash, train.request_id, train.group, train.server_round)
        != (request.campaign, request.plan_hash, request.request_id, request.group, request.server_round)
        or list(train.weights) != list(request.networks)
    ):
        raise UpdateError("Expected training of the sum's own networks and round, got different ones")
    if train is not None and wire.content_hash(train) != context.content:
        raise VerificationError(
            f"Expected what all sites were told that they would be asked for ({context.content:.16}), got something "
            f"else: the centre sends this site other weights than the others"
        )


def answer(site: Site, request: SumRequest, settings: Settings, file: SumFile) -> tuple[Reply, State]:
    """What is said in a phase without patients' data, and the state after it.

    Raises:
        PolicyError: if the sum protects less than the policy asks for, has too few sites, or may have been opened.
        VerificationError: if a key, a share or a signature is not that of a pinned site for this attempt.
    """
    asks, state = request.asks, file.state
    if isinstance(asks, KeysRequest):
        _check_group(site, request, settings)
        terms = plan(settings, request.networks).terms()
        _check_size(site, terms)
        return protocol.keys(
            _identity(site, settings), asks, terms=terms, entropy=os.urandom(32), previous=state
        )
    assert state is not None, "looked at before"
    identity = _identity(site, settings)
    if isinstance(asks, SharesRequest):
        return protocol.shares(state, asks, identity=identity, entropy=os.urandom(32))
    if isinstance(asks, SurvivorsRequest):
        return protocol.survivors(state, asks, identity=identity)
    return protocol.unmask(state, cast(UnmaskRequest, asks), identity=identity)


def check_masked(file: SumFile, request: SumRequest) -> None:
    """All that is refused in phase masked, before anything is trained, booked or drawn for it.

    Raises:
        VerificationError: if shares do not open, or the lists do not fit.
        PolicyError: if too few sites are left.
    """
    assert file.state is not None, "looked at before"
    protocol.check_masked(file.state, cast(MaskedRequest, request.asks))


def masked(
    file: SumFile, request: SumRequest, vector: Int64[np.ndarray, " length"]
) -> tuple[MaskedReply, State]:
    """The vector under its masks, and the state after it.

    Raises:
        UpdateError: if the vector has another length than the plan's, or does not fit into the ring.
    """
    assert file.state is not None, "looked at before"
    return protocol.masked(file.state, cast(MaskedRequest, request.asks), vector)


def plan(settings: Settings, names: Sequence[str]) -> PrivateSum | UpdateSum:
    """How some networks are summed, as the plan has it.

    Raises:
        UpdateError: if they are not the plan's.
        ConfigurationError: if its numbers do not fit.
    """
    from common.aggregation.sum_of_plan import planned_sum  # noqa: PLC0415
    from common.methods.stages import networks  # noqa: PLC0415  torch: the networks are looked at
    from common.networks.build import layout  # noqa: PLC0415

    known = networks(settings)
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise UpdateError("Expected networks of the plan, each once, got unknown or repeated ones")
    specs = {name: known[name] for name in names}
    return planned_sum(
        settings, specs, {name: layout(spec, settings.network).size for name, spec in specs.items()}
    )


def _check_group(site: Site, request: SumRequest, settings: Settings) -> None:
    """Groups follow from the plan; those of one that was begun stay the same (:mod:`client.state.sum_state`)."""
    tasks = _groups(request.plan_hash, settings).get((request.group, request.networks))
    if tasks is None:
        raise PolicyError(
            f"Expected a group of the plan with its networks in their order, got {request.group!r:.80} with "
            f"{len(request.networks)} networks: sums over other groups are not opened"
        )
    out = tasks & {*decisions.without(site, request.plan_hash)}
    if out:
        raise PolicyError(
            f"Expected sums in which this site takes part, got one of {', '.join(sorted(out))}: the campaign was "
            f"approved without"
        )


def _groups(plan_hash: str, settings: Settings) -> Groups:
    """The plan's groups; packed once per process, for all sizes are looked at."""
    from common.methods import groups  # noqa: PLC0415  torch

    if plan_hash not in _packed:
        if len(_packed) >= MAXIMUM_PACKED:
            _packed.clear()
        _packed[plan_hash] = {
            (group.name, tuple(spec.name for spec in group.networks)): group.tasks
            for group in groups.planned(settings)
        }
    return _packed[plan_hash]


def _identity(site: Site, settings: Settings) -> Identity:
    """The site and its peers; a site that adds all the noise itself asks for nothing of the others."""
    policy = site.policy
    alone = (
        settings.private
        and policy.few_peers == "full_noise"
        and policy.relies(settings.federation.secure) == "nobody"
    )
    return Identity(
        site=site.name,
        key=keys.signing_key(site.folder),
        peers=site.peers,
        minimum_peers=1 if alone else policy.minimum_peers,
        colluders=0 if alone else policy.colluders,
    )


def _check_size(site: Site, terms: Terms) -> None:
    """Before a budget is spent on a vector that may not leave."""
    size, most = terms.length * terms.bits // 8, site.policy.maximum_update_bytes
    if size > most:
        raise PolicyError(
            f"A masked vector has {size} bytes, policy.maximum_update_bytes in site.toml is {most}: raise it there "
            f"to permit that"
        )
