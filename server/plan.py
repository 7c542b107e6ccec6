"""What a campaign costs before anybody trains: messages, bytes, disk and memory, from its settings alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.evaluation.histograms import BINS
from common.methods.stages import Stage, method
from common.networks.layout import Layout
from common.networks.spec import NetworkSpec
from common.settings import Settings
from server import groups, weights
from server.groups import Group

VALUE_BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of one weight on the wire."""
HISTOGRAM_BYTES = 2 * BINS * 8
"""A network's validation histograms in each reply: two classes, int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeCost:
    """Networks of a stage that are built alike.

    Attributes:
        images: what they read.
        classes: what they tell apart.
        networks: how many there are.
        parameters: of each, all of them trained.
        values: numbers of each that travel: parameters and the statistics of its norms.
    """

    images: tuple[str, ...]
    classes: int
    networks: int
    parameters: int
    values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """A stage of a campaign.

    Bytes are those of weights, updates and histograms. Names, hashes and signatures, less than a kilobyte a
    network, are not counted; nor is the one round of handshakes. Histograms are counted as if every site
    permitted them.

    Attributes:
        networks: of the stage.
        groups: requests a round and site, each with one reply.
        parameters: of all networks.
        rounds: that train; one more scores the final weights.
        request_bytes: the largest message to a site.
        reply_bytes: the largest message from a site.
        round_down_bytes: to one site in one round.
        round_up_bytes: from one site in one round that trains.
        site_down_bytes: to one site in all rounds.
        site_up_bytes: from one site in all rounds.
        site_messages: requests to one site in all rounds; it answers as many.
        networks_bytes: the trained networks on disk.
        journal_bytes: the journal on disk, at most.
        spool_bytes_a_site: updates on disk until their round is complete, at most.
        centre_memory_bytes: the centre's weights and messages in memory, at most.
    """

    name: str
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
    site_up_bytes: int
    site_messages: int
    networks_bytes: int
    journal_bytes: int
    spool_bytes_a_site: int
    centre_memory_bytes: int


def stages(settings: Settings) -> tuple[Stage, ...]:
    """The stages that the settings' method can ask for.

    Raises:
        ConfigurationError: if there is no such method.
    """
    return tuple(method(settings.method).stages(settings, {}))


def stage_costs(settings: Settings) -> tuple[StageCost, ...]:
    """The cost of each stage; nothing is allocated or trained for it.

    Raises:
        ConfigurationError: if there is no such method.
    """
    return tuple(_cost(stage, settings) for stage in stages(settings))


def _cost(stage: Stage, settings: Settings) -> StageCost:
    federation = settings.federation
    layouts = weights.layouts(stage.networks, settings)
    packed = groups.pack(stage.name, stage.networks, layouts, group_bytes=federation.group_bytes)
    requests = [_request_bytes(group, settings) for group in packed]
    histograms = [HISTOGRAM_BYTES * len(group.networks) for group in packed]
    rounds, down, scored = federation.rounds, sum(requests), sum(histograms)
    return StageCost(
        name=stage.name,
        networks=len(stage.networks),
        groups=len(packed),
        shapes=tuple(_shapes(stage.networks, layouts)),
        parameters=sum(layout.trained_size for layout in layouts.values()),
        rounds=rounds,
        request_bytes=max(requests),
        reply_bytes=max(r + h for r, h in zip(requests, histograms, strict=True)),
        round_down_bytes=down,
        round_up_bytes=down + scored,
        site_down_bytes=(rounds + 1) * down,
        site_up_bytes=rounds * down + (rounds + 1) * scored,
        site_messages=(rounds + 1) * len(packed),
        networks_bytes=sum(group.size_bytes for group in packed),
        journal_bytes=_journal_bytes(packed, rounds),
        spool_bytes_a_site=sum(_in_flight(packed, settings)),
        centre_memory_bytes=_centre_memory_bytes(packed, settings),
    )


def _shapes(specs: Sequence[NetworkSpec], layouts: dict[str, Layout]) -> Iterator[ShapeCost]:
    alike: dict[tuple[tuple[str, ...], int], list[NetworkSpec]] = {}
    for spec in specs:
        alike.setdefault((spec.images, spec.target.classes), []).append(spec)
    for (images, classes), members in alike.items():
        layout = layouts[members[0].name]
        yield ShapeCost(
            images=images,
            classes=classes,
            networks=len(members),
            parameters=layout.trained_size,
            values=layout.size,
        )


def _request_bytes(group: Group, settings: Settings) -> int:
    width = VALUE_BYTES[settings.federation.encoding]
    return sum(width * layout.size for layout in group.layouts.values())


def _journal_bytes(packed: Sequence[Group], rounds: int) -> int:
    """Kept are a group's last round and each network's best one; while a file is written, one more.

    A group has a file for the start, for each round and for the one that scores, but no more than it keeps.
    """
    kept = sum(group.size_bytes * min(rounds + 2, len(group.networks) + 1) for group in packed)
    return kept + max(group.size_bytes for group in packed)


def _in_flight(packed: Sequence[Group], settings: Settings) -> list[int]:
    """Bytes of the largest groups that can be under way together."""
    largest = sorted((group.size_bytes for group in packed), reverse=True)
    return largest[: settings.compute.groups_in_flight]


def _centre_memory_bytes(packed: Sequence[Group], settings: Settings) -> int:
    """Each group in flight has its weights and its encoded request; one reply or journal file is at hand."""
    in_flight = _in_flight(packed, settings)
    width = VALUE_BYTES[settings.federation.encoding]
    return sum(size + size * width // 4 for size in in_flight) + in_flight[0]
