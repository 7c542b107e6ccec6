"""How many rounds a plan has. A network trains in rounds 1 to N of its stage; one more scores its final weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from common.methods.stages import stages_of
from common.networks.spec import NetworkSpec
from common.settings import Settings


def network_rounds(spec: NetworkSpec, settings: Settings) -> int:
    """Rounds in which a network trains: its own number, or else the campaign's."""
    return settings.federation.rounds if spec.rounds is None else spec.rounds


def stage_rounds(networks: Iterable[NetworkSpec], settings: Settings) -> int:
    """Rounds in which any network of a stage, or of a group of it, trains; 0 of none."""
    return max((network_rounds(spec, settings) for spec in networks), default=0)


def rounds_by_stage(settings: Settings) -> dict[str, int]:
    """Stage -> rounds in which it trains, in the plan's order.

    Of a stage that chooses by earlier results, the rounds of the choice with the most. Stages of one name count
    together.

    Raises:
        ConfigurationError: if the method cannot be used.
    """
    found: Counter[str] = Counter()
    for stage in stages_of(settings):
        found[stage.name] += stage_rounds((*stage.networks, *stage.alternatives), settings)
    return dict(found)


def total_rounds(settings: Settings) -> int:
    """Rounds of all stages together, those that score not counted.

    Raises:
        ConfigurationError: if the method cannot be used.
    """
    return sum(rounds_by_stage(settings).values())


def longest_stage_rounds(settings: Settings) -> int:
    """The highest number of a round in which anything is trained: each stage counts its rounds from 1.

    Raises:
        ConfigurationError: if the method cannot be used.
    """
    return max(rounds_by_stage(settings).values(), default=0)
