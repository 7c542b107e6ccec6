"""Groups of networks: the unit of a round, a message, a journal entry and a quorum; they follow from the plan.

A centre packs them, and a site that is asked for a secure sum packs them too, so that it answers no others. Under
secure aggregation without noise a group's networks share their task: who has no exams for a task takes no part in
its groups, and adds no zeros that would pass for a site.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.errors import ConfigurationError
from common.methods.stages import Stage, stacked, stages_of
from common.networks import build
from common.networks.layout import Layout
from common.networks.spec import NetworkSpec
from common.settings import Settings


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

    @property
    def tasks(self) -> frozenset[str]:
        """What its networks learn."""
        return frozenset(spec.target.task for spec in self.networks)


def of_stage(
    stage: Stage, settings: Settings, *, networks: Sequence[NetworkSpec] | None = None
) -> tuple[Group, ...]:
    """The groups of a stage.

    Args:
        stage: a whole one is one group.
        settings: of the campaign.
        networks: those of the stage that are trained; ``None``: all.
    """
    networks = stage.networks if networks is None else networks
    return pack(
        stage.name,
        networks,
        layouts(networks, settings),
        group_bytes=settings.federation.group_bytes,
        frozen_bytes=frozen_bytes(networks, settings),
        whole=stage.whole,
        by_task=settings.sums_tasks,
        together=[[spec.name for spec in members] for members in stacked(networks, settings).values()],
    )


def planned(settings: Settings) -> tuple[Group, ...]:
    """Every group that a campaign with secure sums can ask for.

    Of a stage that chooses by earlier results, those of any choice: then several have one name.

    Raises:
        ConfigurationError: if a stage's alternatives are not whole choices.
    """
    return tuple(
        group
        for stage in stages_of(settings)
        for networks in _choices(stage)
        for group in of_stage(stage, settings, networks=networks)
    )


def pack(
    stage: str,
    networks: Sequence[NetworkSpec],
    layouts: Mapping[str, Layout],
    *,
    group_bytes: int,
    frozen_bytes: Mapping[str, int],
    whole: bool = False,
    by_task: bool = False,
    together: Iterable[Iterable[str]] = (),
) -> tuple[Group, ...]:
    """Fill groups with networks in their order, up to ``group_bytes`` of float32 weights each.

    Frozen parts count, as a first message may carry them all. A network larger than ``group_bytes`` makes a group
    of its own; a stage that is ``whole`` is one group; ``by_task`` a group's networks have one task; those named
    ``together`` are in one group, whatever their size.
    """
    of = {name: place for place, names in enumerate(map(tuple, together)) for name in names}
    sizes = {spec.name: 4 * layouts[spec.name].size + frozen_bytes[spec.name] for spec in networks}
    parts = list(_by_task(networks)) if by_task else [list(networks)]
    filled = (
        [list(networks)]
        if whole
        else [group for part in parts for group in _fill(_units(part, of), sizes, group_bytes)]
    )
    return tuple(
        Group(
            name=f"{stage}-{index:03d}",
            stage=stage,
            networks=tuple(members),
            layouts={spec.name: layouts[spec.name] for spec in members},
        )
        for index, members in enumerate(filled)
    )


def layouts(specs: Iterable[NetworkSpec], settings: Settings) -> dict[str, Layout]:
    """The layout of each network's flat weights, by name; networks of one shape share it."""
    return {spec.name: build.layout(spec, settings.network) for spec in specs}


def frozen_bytes(specs: Iterable[NetworkSpec], settings: Settings) -> dict[str, int]:
    """Bytes of each network's frozen parts as float32, by name: what a site is sent once."""
    return {
        spec.name: sum(
            4 * build.part_layout(spec, settings.network, piece.part).size for piece in spec.frozen
        )
        for spec in specs
    }


def _choices(stage: Stage) -> Iterator[Sequence[NetworkSpec]]:
    """The networks of a stage, and those that it could have had in their place."""
    count, others = len(stage.networks), stage.alternatives
    if others and len(others) % count:
        raise ConfigurationError(
            f"Expected the alternatives of stage {stage.name} to be whole choices of {count} networks each, got "
            f"{len(others)}: secure sums cannot tell what may be asked for together"
        )
    yield stage.networks
    for start in range(0, len(others), count):
        yield others[start : start + count]


def _by_task(networks: Iterable[NetworkSpec]) -> Iterator[list[NetworkSpec]]:
    found: dict[str, list[NetworkSpec]] = {}
    for spec in networks:
        found.setdefault(spec.target.task, []).append(spec)
    yield from found.values()


def _units(networks: Iterable[NetworkSpec], together: Mapping[str, int]) -> Iterable[list[NetworkSpec]]:
    """What is not divided: networks that belong together, else each by itself."""
    units: dict[int | str, list[NetworkSpec]] = {}
    for spec in networks:
        units.setdefault(together.get(spec.name, spec.name), []).append(spec)
    return units.values()


def _fill(
    units: Iterable[Sequence[NetworkSpec]], sizes: Mapping[str, int], group_bytes: int
) -> Iterator[list[NetworkSpec]]:
    members: list[NetworkSpec] = []
    filled = 0
    for unit in units:
        size = sum(sizes[spec.name] for spec in unit)
        if members and filled + size > group_bytes:
            yield members
            members, filled = [], 0
        members.extend(unit)
        filled += size
    if members:
        yield members
