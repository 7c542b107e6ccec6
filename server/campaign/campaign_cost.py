"""What a campaign costs before anybody trains: messages, bytes, disk and memory, from its settings alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.aggregation.algorithms import algorithm
from common.encodings import update_bytes, weights_bytes
from common.evaluation.histograms import BINS
from common.methods import groups
from common.methods.groups import Group
from common.methods.rounds import stage_rounds
from common.methods.stages import Stage, stages_of
from common.networks.layout import Layout
from common.networks.spec import NetworkSpec
from common.sections.compute import ComputeSettings
from common.sections.federation import FederationSettings
from common.settings import Settings
from common.training.local_settings import selects

HISTOGRAM_BYTES = BINS * 8
"""Of one class's validation histogram in each reply: int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeCost:
    """Networks of a stage that are built alike.

    Attributes:
        label: what they are, for a person.
        networks: how many there are.
        parameters: of each that are trained.
        values: numbers of each that travel every round: parameters and the statistics of its norms.
        frozen_values: numbers of each that stay as they are, sent to a site once.
    """

    label: str
    networks: int
    parameters: int
    values: int
    frozen_values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """A stage of a campaign.

    Bytes are those of weights, updates, what else the algorithm sends, and histograms. Names, hashes and
    signatures, less than a kilobyte per network, are not counted; nor is the one round of handshakes. Histograms are
    counted as if every site permitted them.

    Attributes:
        after: stages that its networks start from.
        networks: of the stage.
        groups: requests per round and site, each with one reply.
        parameters: of all networks.
        rounds: that train; one more scores the final weights.
        request_bytes: the largest message to a site.
        reply_bytes: the largest message from a site.
        round_down_bytes: to one site in one round.
        round_up_bytes: from one site in one round that trains.
        site_down_bytes: to one site in all rounds, frozen parts included.
        frozen_bytes: of these, frozen parts, sent once.
        site_up_bytes: from one site in all rounds.
        site_messages: requests to one site in all rounds; it answers as many.
        networks_bytes: the trained networks on disk.
        journal_bytes: the journal on disk, at most.
        spool_bytes_per_site: updates on disk until their round is complete, at most.
        site_state_bytes: what a site keeps of its optimisers, and of what its updates lost on the wire, on disk until
            the campaign ends, at most.
        centre_memory_bytes: the centre's weights and messages in memory, at most.
    """

    name: str
    after: tuple[str, ...]
    networks: int
    groups: int
    shapes: tuple[ShapeCost, ...]
    parameters: int
    rounds: int
    request_bytes: int
    reply_bytes: int
    round_down_bytes: int
    round_up_bytes: int
    site_down_bytes: int
    frozen_bytes: int
    site_up_bytes: int
    site_messages: int
    networks_bytes: int
    journal_bytes: int
    spool_bytes_per_site: int
    site_state_bytes: int
    centre_memory_bytes: int


def cost_key(spec: NetworkSpec) -> str:
    """Networks of equal key cost the same: they are built alike, read the same images and train alike."""
    made_of = spec.model_dump_json(
        exclude={"name", "fold", "replica", "rounds", "scoring", "pieces", "target"}
    )
    frozen = [piece.part for piece in spec.frozen]
    return hashlib.sha256(f"{made_of}/{spec.target.classes}/{frozen}".encode()).hexdigest()


def label(spec: NetworkSpec) -> str:
    """What a network is, for a person: ``gs+doppler, frozen backbones`` or ``gs, 1000 permutations``."""
    parts = ["+".join(spec.images)]
    if spec.jigsaw is not None:
        parts.append(f"{spec.target.classes} permutations")
    elif spec.target.classes > 2:
        parts.append(f"{spec.target.classes} classes")
    if spec.backbone is not None:
        parts.append(spec.backbone + (f" to layer {spec.layer}" if spec.layer is not None else ""))
    if spec.frozen:
        parts.append("frozen backbones" if len(spec.frozen) > 1 else "frozen backbone")
    return ", ".join(parts)


def stages(settings: Settings) -> tuple[Stage, ...]:
    """The stages that the settings' method can ask for.

    Raises:
        ConfigurationError: if there is no such method.
    """
    return tuple(stages_of(settings))


def stage_costs(settings: Settings) -> tuple[StageCost, ...]:
    """The cost of each stage; nothing is allocated or trained for it.

    Raises:
        ConfigurationError: if there is no such method.
    """
    stage_of: dict[str, str] = {}
    costs = []
    for stage in stages(settings):
        costs.append(_cost(stage, settings, stage_of))
        stage_of |= {spec.name: stage.name for spec in stage.networks}
    return tuple(costs)


def _cost(stage: Stage, settings: Settings, stage_of: Mapping[str, str]) -> StageCost:
    layouts = groups.layouts(stage.networks, settings)
    frozen = groups.frozen_bytes(stage.networks, settings)
    its_groups = groups.of_stage(stage, settings)
    requests = [_request_bytes(group, settings.federation) for group in its_groups]
    replies = [_update_bytes(group, settings.federation) for group in its_groups]
    histograms = [sum(_histogram_bytes(spec, settings) for spec in group.networks) for group in its_groups]
    rounds = stage_rounds(stage.networks, settings)
    down, up, scored, once = sum(requests), sum(replies), sum(histograms), sum(frozen.values())
    # a site asks for frozen weights, and the request comes a second time with them
    twice = [
        r for r, group in zip(requests, its_groups, strict=True) if any(s.frozen for s in group.networks)
    ]
    asked, again = len(twice), sum(twice)
    return StageCost(
        name=stage.name,
        after=_after(stage, stage_of),
        networks=len(stage.networks),
        groups=len(its_groups),
        shapes=tuple(_shapes(stage.networks, layouts, frozen)),
        parameters=sum(layout.trained_size for layout in layouts.values()),
        rounds=rounds,
        request_bytes=max(
            r + sum(frozen[spec.name] for spec in group.networks)
            for r, group in zip(requests, its_groups, strict=True)
        ),
        reply_bytes=max(r + h for r, h in zip(replies, histograms, strict=True)),
        round_down_bytes=down,
        round_up_bytes=up + scored,
        site_down_bytes=(rounds + 1) * down + once + again,
        frozen_bytes=once,
        site_up_bytes=rounds * up + (rounds + 1) * scored,
        site_messages=(rounds + 1) * len(its_groups) + asked,
        networks_bytes=sum(group.size_bytes for group in its_groups),
        journal_bytes=_journal_bytes(its_groups, settings.federation, rounds),
        spool_bytes_per_site=sum(
            _reply_bytes(group, settings.federation) for group in _in_flight(its_groups, settings.compute)
        ),
        site_state_bytes=sum(_site_state_bytes(group, settings) for group in its_groups),
        centre_memory_bytes=_centre_memory_bytes(its_groups, settings),
    )


def _after(stage: Stage, stage_of: Mapping[str, str]) -> tuple[str, ...]:
    sources = [piece.network for spec in stage.networks for piece in spec.pieces if piece.network is not None]
    return tuple(dict.fromkeys(stage_of[name] for name in sources))


def _shapes(
    specs: Sequence[NetworkSpec], layouts: Mapping[str, Layout], frozen: Mapping[str, int]
) -> Iterator[ShapeCost]:
    alike: dict[str, list[NetworkSpec]] = {}
    for spec in specs:
        alike.setdefault(cost_key(spec), []).append(spec)
    for members in alike.values():
        layout = layouts[members[0].name]
        yield ShapeCost(
            label=label(members[0]),
            networks=len(members),
            parameters=layout.trained_size,
            values=layout.size,
            frozen_values=frozen[members[0].name] // 4,
        )


def _histogram_bytes(spec: NetworkSpec, settings: Settings) -> int:
    return HISTOGRAM_BYTES * spec.target.classes if selects(spec, settings) else 0


def _request_bytes(group: Group, federation: FederationSettings) -> int:
    """Of a message of weights, and of what else the algorithm sends, which is never rounded."""
    return _sent_bytes(group, federation) + sum(
        weights_bytes(federation.encoding, size=layout.size, trained=layout.trained_size)
        for layout in group.layouts.values()
    )


def _update_bytes(group: Group, federation: FederationSettings) -> int:
    """The same of a message of updates."""
    return _sent_bytes(group, federation) + sum(
        update_bytes(federation.encoding, size=layout.size, trained=layout.trained_size)
        for layout in group.layouts.values()
    )


def _sent_bytes(group: Group, federation: FederationSettings) -> int:
    return len(algorithm(federation).sent) * _trained_bytes(group)


def _kept_bytes(group: Group, federation: FederationSettings) -> int:
    """Of what the algorithm keeps at the centre beside the weights."""
    return len(algorithm(federation).kept) * _trained_bytes(group)


def _site_state_bytes(group: Group, settings: Settings) -> int:
    """Of the last round that counted and of the one after it."""
    lost = group.size_bytes if settings.federation.feeds_back else 0
    vectors = 0
    if settings.federation.optimiser_state == "kept":
        vectors = 2 if settings.training.optimiser == "adamw" else int(settings.training.momentum > 0)
    return 2 * (vectors * _trained_bytes(group) + lost)


def _trained_bytes(group: Group) -> int:
    return sum(4 * layout.trained_size for layout in group.layouts.values())


def _journal_bytes(packed: Sequence[Group], federation: FederationSettings, rounds: int) -> int:
    """Kept are a group's last round and each network's best one; while a file is written, one more.

    A group has a file for the start, for each round and for the one that scores, but no more than it keeps. What the
    algorithm keeps beside the weights is there of the last round only.
    """
    extra = [_kept_bytes(group, federation) for group in packed]
    kept = sum(group.size_bytes * min(rounds + 2, len(group.networks) + 1) for group in packed)
    return kept + sum(extra) + max(group.size_bytes + e for group, e in zip(packed, extra, strict=True))


def _in_flight(packed: Sequence[Group], compute: ComputeSettings) -> list[Group]:
    """The largest groups that can be under way together."""
    largest = sorted(packed, key=lambda group: group.size_bytes, reverse=True)
    return largest[: compute.groups_in_flight]


def _reply_bytes(group: Group, federation: FederationSettings) -> int:
    """Of a reply on disk or in memory, where updates are float32."""
    return group.size_bytes + _sent_bytes(group, federation)


def _centre_memory_bytes(packed: Sequence[Group], settings: Settings) -> int:
    """Each group in flight has its state and its encoded request; one reply or journal file is at hand."""
    federation = settings.federation
    in_flight = _in_flight(packed, settings.compute)
    each = [g.size_bytes + _kept_bytes(g, federation) + _request_bytes(g, federation) for g in in_flight]
    at_hand = in_flight[0].size_bytes + max(
        _kept_bytes(in_flight[0], federation), _sent_bytes(in_flight[0], federation)
    )
    return sum(each) + at_hand
