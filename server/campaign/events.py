"""The events that an observer of a campaign receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from server.rounds.journal import RoundRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """Told before a stage trains.

    Attributes:
        networks: of the stage.
        reused: networks that another run of the study had trained.
        total: rounds of all groups of the stage.
        done: those that the journal holds already.
    """

    stage: str
    networks: int
    reused: int
    groups: int
    total: int
    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNews:
    """Told when a site's part in the campaign changes.

    Attributes:
        site: its name.
        state: ``present``: it agreed to the plan and is asked to train; ``waiting``: it will be asked again;
            ``away``: it missed its deadline, and rounds go on without it until it is back; ``declined``: it refuses.
        reason: why; of a site that is present, what it would train nothing for.
    """

    site: str
    state: Literal["present", "waiting", "away", "declined"]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CentreNews:
    """Told when the centre itself has to wait.

    Attributes:
        reason: for what.
    """

    reason: str


Event = StageStarted | RoundRecord | SiteNews | CentreNews
Observer = Callable[[Event], None]
