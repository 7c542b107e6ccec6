"""A campaign whose plan lets its list of sites grow: who is admitted on the way trains from the next round."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import Message

from client.app import app as client_app
from client.site import keys as site_keys
from common.errors import ConfigurationError
from server.campaign import campaign
from server.campaign.campaign import Event, Outcome, Status
from server.campaign.events import SiteNews
from server.campaign.roster import Roster
from server.rounds.journal import RoundRecord
from tests.federation.faults import Fault, FaultyGrid, in_process
from tests.federation.test_campaign import assert_same, configured, folders
from tests.federation.test_faults import PACE
from tests.site_folders import make_settings

__all__ = ["folders"]

PLAN = "[federation]\nrounds = 4\ndeadline_s = 1000.0\n[campaign]\nlate_joining = true"
ROUNDS = 5
"""With the one that scores."""


@dataclass
class Growing(Fault):
    """West is admitted after the second round; the others are not reached in the third before west has agreed."""

    keys: dict[str, str]
    judges: bool = False
    rounds: int = 0
    agreed: bool = False
    records: list[RoundRecord] = field(default_factory=list)

    def observe(self, event: Event) -> None:
        if isinstance(event, RoundRecord):
            self.records.append(event)
            self.rounds = event.round
        elif isinstance(event, SiteNews) and event.site == "west":
            self.agreed |= event.state == "present"

    def sending(self, site: str, message: Message, number: int) -> bool:
        return site == "west" or self.rounds < 2 or self.agreed

    def roster(self) -> Roster:
        known = {site: key for site, key in self.keys.items() if site != "west"}
        if self.rounds < 2:
            return Roster.of(known)
        beside = {"judges": ["west"]} if self.judges else {"late": ["west"]}
        return Roster.of(self.keys, **beside)


@pytest.fixture(scope="module")
def keys(folders: list[Path]) -> dict[str, str]:
    return {folder.name: site_keys.public_key(folder) for folder in folders}


def run(
    fault: Growing,
    folders: list[Path],
    out: Path,
    *,
    plan: str = PLAN,
    admitted: Callable[[], Roster] | None = None,
    observer: Callable[[Event], None] | None = None,
) -> tuple[Outcome, FaultyGrid]:
    out.mkdir(exist_ok=True)
    grid = FaultyGrid(folders, in_process(client_app), fault)
    outcome = campaign.run(
        grid,
        configured(plan),
        roster=fault.roster(),
        folder=out,
        campaign="test",
        observer=observer or fault.observe,
        pace=PACE,
        admitted=admitted or fault.roster,
    )
    return outcome, grid


def participants(records: list[RoundRecord]) -> list[tuple[str, ...]]:
    return [record.participants for record in sorted(records, key=lambda record: record.round)]


@pytest.fixture(scope="module")
def whole(
    folders: list[Path], keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Growing, Outcome, Path]:
    fault, out = Growing(keys), tmp_path_factory.mktemp("whole")
    return fault, run(fault, folders, out)[0], out


def test_who_is_admitted_on_the_way_trains_from_the_next_round(whole: tuple[Growing, Outcome, Path]) -> None:
    fault, outcome, _ = whole
    first = ("north", "south")
    assert participants(fault.records) == [first] * 3 + [(*first, "west")] * (ROUNDS - 3)
    assert outcome.status is Status.COMPLETE_ALL_SITES  # nobody missed a round that it was in
    assert outcome.sites == (*first, "west")
    assert outcome.missing == {}


class StoppedError(Exception):
    """The centre dies."""


@pytest.mark.soak
def test_a_centre_that_died_after_a_site_had_joined_goes_on_with_the_same_bits(
    whole: tuple[Growing, Outcome, Path], folders: list[Path], keys: dict[str, str], tmp_path: Path
) -> None:
    fault = Growing(keys)

    def dies(event: Event) -> None:
        fault.observe(event)
        if isinstance(event, RoundRecord) and event.round == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(fault, folders, tmp_path / "run", observer=dies)
    fault.agreed = False  # asked again, like everybody
    outcome, _ = run(fault, folders, tmp_path / "run")
    assert participants(fault.records) == participants(whole[0].records)
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert_same(whole[2], tmp_path / "run")


def test_a_judge_agrees_and_trains_nothing(folders: list[Path], keys: dict[str, str], tmp_path: Path) -> None:
    fault = Growing(keys, judges=True)
    outcome, grid = run(fault, folders, tmp_path / "run")
    assert fault.agreed
    assert outcome.sites == ("north", "south")
    assert not any("west" in record.participants or "west" in record.dropped for record in fault.records)
    assert {request for site, request in grid.asked if site == "west"} == {""}  # no round


def test_a_plan_that_does_not_allow_it_never_looks(
    folders: list[Path], keys: dict[str, str], tmp_path: Path
) -> None:
    def looked() -> Roster:
        raise AssertionError("looked")

    fault = Growing(keys, agreed=True)
    outcome, _ = run(fault, folders, tmp_path / "run", plan="[federation]\nrounds = 1", admitted=looked)
    assert outcome.sites == ("north", "south")


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ('[privacy]\nmechanism = "none"\npatients = 10\nmax_grad_norm = 1.0\n', "without \\[privacy\\]"),
        ("[federation.secure]\nsites = 3\nsurvivors = 3\n", "without \\[federation.secure\\]"),
    ],
    ids=["privacy", "secure sums"],
)
def test_noise_and_sums_are_of_the_sites_of_the_plan(section: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        make_settings(text=f"{section}[campaign]\nlate_joining = true\n")


def test_a_plan_without_it_has_the_hash_that_it_had() -> None:
    assert make_settings(text="[campaign]\nlate_joining = false\n").plan_hash() == make_settings().plan_hash()
