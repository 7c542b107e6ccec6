"""The campaigns of a centre: what was asked for, how far each is, and what it ended with.

Each file of a campaign's folder has one writer: ``run.json`` the commands, ``attempts.json`` the service,
``status.json`` the campaign's own process while it lives, and the service once it is dead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from common.errors import ConfigurationError
from common.machine import atomic
from common.sections.section import Section, describe
from common.settings import Settings
from server.federation.home import Home
from server.runs.run_folder import RunFolder

State = Literal[
    "SUBMITTED",
    "STARTING",
    "RUNNING",
    "INTERRUPTED",
    "STOPPED",
    "COMPLETE_ALL_SITES",
    "COMPLETE_SUBSET",
    "FAILED",
]
COMPLETE = frozenset({"COMPLETE_ALL_SITES", "COMPLETE_SUBSET"})
ENDED = frozenset({"STOPPED", "FAILED"}) | COMPLETE
EXIT_CODES: Mapping[str, int] = {"COMPLETE_ALL_SITES": 0, "COMPLETE_SUBSET": 7, "FAILED": 1, "STOPPED": 1}
"""What a command that waits for a campaign's end exits with."""


class Wish(Section):
    """``run.json``: what the operator wants of a campaign."""

    wanted: Literal["run", "stop"] = "run"
    sites: tuple[str, ...]
    """That take part, by their registered names."""
    late: tuple[str, ...] = ()
    """That were admitted after submission."""
    judges: tuple[str, ...] = ()
    """That train nothing, and judge the ensemble."""
    submitted: str
    asked: str
    """When the operator last wanted something: tries and waits begin anew with it."""


class SiteStatus(Section):
    """Where one site stands in a campaign."""

    state: str = "expected"
    """``expected``, or as :class:`server.campaign.events.SiteNews` has it."""
    reason: str = ""
    since: str = ""
    """When it came into this state."""
    used: int = 0
    """Rounds of groups in which its update was used."""
    last_used: str = ""
    """When that was last; empty if never."""


class CampaignStatus(Section):
    """``status.json``: how far a campaign is."""

    state: State
    reason: str = ""
    updated: str = ""
    waits: str = ""
    """What the centre itself waits for."""
    stage: str = ""
    networks: int = 0
    total: int = 0
    """Rounds of all groups of the stage."""
    done: int = 0
    """Of these, aggregated."""
    groups: Mapping[str, int] = Field(default_factory=dict)
    """Group of the stage -> its last aggregated round."""
    rounds_per_hour: float | None = None
    """Of groups, since the process started."""
    sites: Mapping[str, SiteStatus] = Field(default_factory=dict)
    ensemble: Mapping[str, str] = Field(default_factory=dict)
    """Site that gets the networks at the end -> ``received``, or why it has not got them yet."""
    evaluation: Mapping[str, str] = Field(default_factory=dict)
    """Site that is asked for tables at the end -> ``received``, or why it has not given them yet."""
    missing: Mapping[str, int] = Field(default_factory=dict)
    """Site -> rounds in which its update was not used; known at the end."""

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end of the stage at the pace so far."""
        if not self.rounds_per_hour:
            return None
        return 3600.0 * (self.total - self.done) / self.rounds_per_hour


class Attempts(Section):
    """``attempts.json``: the service's tries to run a campaign."""

    run_id: int = 0
    """Flower's number of the run; 0: none was started."""
    tries: int = 0
    """Attempts in a row that completed no round."""
    rounds: int = 0
    """Lines of ``rounds.jsonl`` when it was last started."""
    not_before: float = 0.0
    """POSIX seconds."""
    asked: str = ""
    """The wish that these tries belong to."""


Kept = TypeVar("Kept", bound=Section)


@dataclass(frozen=True, slots=True)
class Run:
    """One campaign's folder."""

    path: Path

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self.path.name

    @property
    def home(self) -> Home:
        """Of the centre whose campaign it is."""
        return Home(self.path.parent.parent)

    @property
    def log(self) -> Path:
        """What happened, one line per event; sites stand in it by their registered names."""
        return self.path / "log.txt"

    def settings(self) -> Settings:
        """The resolved configuration."""
        return RunFolder(self.path).settings()

    def wish(self) -> Wish:
        """What is wanted of it."""
        return _read(self.path / "run.json", Wish)

    def write_wish(self, wish: Wish) -> None:
        """Replace what is wanted of it."""
        _write(self.path / "run.json", wish)

    def status(self) -> CampaignStatus:
        """How far it is."""
        path = self.path / "status.json"
        return _read(path, CampaignStatus) if path.exists() else CampaignStatus(state="SUBMITTED")

    def write_status(self, status: CampaignStatus) -> None:
        """Replace how far it is."""
        _write(self.path / "status.json", status.model_copy(update={"updated": now()}))

    def attempts(self) -> Attempts:
        """What the service tried."""
        path = self.path / "attempts.json"
        return _read(path, Attempts) if path.exists() else Attempts()

    def write_attempts(self, attempts: Attempts) -> None:
        """Replace what the service tried."""
        _write(self.path / "attempts.json", attempts)

    def rounds(self) -> list[dict[str, object]]:
        """The aggregated rounds; a line that a crash cut short is left out."""
        try:
            lines = (self.path / "rounds.jsonl").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines[:-1] if line]


def all_of(home: Home) -> tuple[Run, ...]:
    """The campaigns of a centre, by name."""
    found = sorted(home.runs.glob("*/run.json"))
    return tuple(Run(path.parent) for path in found if not path.parent.name.startswith("."))


def find(home: Home, name: str) -> Run:
    """A campaign by name.

    Raises:
        ConfigurationError: if there is none of that name.
    """
    known = all_of(home)
    for run in known:
        if run.name == name:
            return run
    names = ", ".join(run.name for run in known) or "none"
    raise ConfigurationError(f"Expected a campaign of {home.runs} ({names}), got {name!r}")


def now() -> str:
    """The present, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read(path: Path, kind: type[Kept]) -> Kept:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"Expected to read {path}: {error.strerror}") from None
    except ValidationError as error:
        raise ConfigurationError(f"{path} is damaged. {describe(error, source=str(path))}") from None


def _write(path: Path, content: Section) -> None:
    atomic.write(path, content.model_dump_json(indent=1).encode() + b"\n")
