"""Packs networks into groups: the unit of a round, a message, a journal entry and a quorum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.networks.layout import Layout
from common.networks.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Networks that are trained from one request and accepted or dropped whole."""

    name: str
    stage: str
    networks: tuple[NetworkSpec, ...]
    layouts: Mapping[str, Layout]

    def spec(self, name: str) -> NetworkSpec:
        """The network of a name."""
        return next(spec for spec in self.networks if spec.name == name)

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights as float32."""
        return sum(4 * layout.size for layout in self.layouts.values())


def pack(
    stage: str,
    networks: Sequence[NetworkSpec],
    layouts: Mapping[str, Layout],
    *,
    group_bytes: int,
    frozen_bytes: Mapping[str, int],
    whole: bool = False,
) -> tuple[Group, ...]:
    """Fill groups with networks in their order, up to ``group_bytes`` of float32 weights each.

    Frozen parts count, as a first message may carry them all. A network larger than ``group_bytes`` makes a group
    of its own; a stage that is ``whole`` is one group.
    """
    sizes = {spec.name: 4 * layouts[spec.name].size + frozen_bytes[spec.name] for spec in networks}
    return tuple(
        Group(
            name=f"{stage}-{index:03d}",
            stage=stage,
            networks=tuple(members),
            layouts={spec.name: layouts[spec.name] for spec in members},
        )
        for index, members in enumerate([networks] if whole else _fill(networks, sizes, group_bytes))
    )


def _fill(
    networks: Sequence[NetworkSpec], sizes: Mapping[str, int], group_bytes: int
) -> Iterator[list[NetworkSpec]]:
    members: list[NetworkSpec] = []
    filled = 0
    for spec in networks:
        size = sizes[spec.name]
        if members and filled + size > group_bytes:
            yield members
            members, filled = [], 0
        members.append(spec)
        filled += size
    if members:
        yield members
