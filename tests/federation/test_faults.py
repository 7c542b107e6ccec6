"""Whatever breaks on the way: the same bits where everybody is back in time, a named subset where somebody is not."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode

from client.app import app as client_app
from client.site import keys as site_keys
from common import wire
from common.errors import CampaignError, PolicyError
from common.fab import refusal
from common.machine import atomic
from common.messages import Refusal
from common.settings import Settings
from common.version import VERSION
from server.campaign import campaign, loop
from server.campaign.campaign import Outcome, Status
from server.campaign.events import CentreNews, Event, SiteNews
from server.campaign.members import Pace
from server.campaign.roster import Roster
from server.rounds.journal import RoundRecord
from simulation.engine.grid import App
from tests.federation import fault_processes
from tests.federation.fault_processes import NoFault
from tests.federation.faults import Clock, Fault, FaultyGrid, Sites, in_process, processes, replay
from tests.federation.test_campaign import assert_same, configured, folders
from tests.federation.test_campaign import run as run_undisturbed
from tests.marks import SOAK_CI

__all__ = ["folders"]

NAMES = ("north", "south", "west")
PACE = Pace(look=0.01, ask_first=0.02, ask_last=0.1, silence=0.3)
ALL = "[federation]\nrounds = 2\ndeadline_s = 1000.0"
SUBSET = f"{ALL}\nquorum = 2"


@pytest.fixture(scope="module")
def keys(folders: list[Path]) -> dict[str, str]:
    return {folder.name: site_keys.public_key(folder) for folder in folders}


@pytest.fixture(scope="module")
def undisturbed(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_undisturbed(folders, configured(ALL), folder)
    return folder


def run(
    grid: FaultyGrid,
    keys: dict[str, str],
    folder: Path,
    *,
    settings: Settings | None = None,
    observer: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    folder.mkdir(exist_ok=True)
    return campaign.run(
        grid,
        settings or configured(ALL),
        roster=Roster.of(keys),
        folder=folder,
        campaign="test",
        observer=observer,
        pace=PACE,
    )


def grid_with(fault: Fault, folders: Sequence[Path]) -> FaultyGrid:
    return FaultyGrid(folders, in_process(client_app), fault)


@pytest.mark.parametrize(
    "death",
    [
        "writing",
        *(pytest.param(death, marks=SOAK_CI) for death in ("broadcast", "aggregation", "written")),
    ],
)
def test_a_centre_killed_at_any_instant_goes_on_with_the_same_bits(
    death: str, folders: list[Path], keys: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    centre = processes.Process(
        target=fault_processes.centre, args=(configured(ALL), folders, tmp_path / "run", keys, death)
    )
    centre.start()
    centre.join()
    assert centre.exitcode == -signal.SIGKILL
    outcome = run(grid_with(NoFault(), folders), keys, tmp_path / "run")
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert_same(undisturbed, tmp_path / "run")


@pytest.mark.parametrize(
    "death", ["training", *(pytest.param(death, marks=SOAK_CI) for death in ("answered", "replied"))]
)
def test_a_site_killed_at_any_instant_is_asked_again(
    death: str, folders: list[Path], keys: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    sites = Sites(fault_processes.serve, {"south": death})
    try:
        outcome = run(FaultyGrid(folders, sites.answer, NoFault()), keys, tmp_path / "run")
    finally:
        sites.close()
    assert sites.deaths == ["south"]
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert_same(undisturbed, tmp_path / "run")


class LostMessages(Fault):
    """Every second message to a site never arrives there."""

    def sending(self, site: str, message: Message, number: int) -> bool:
        return number % 2 == 0


class LostReplies(Fault):
    """Every second reply never arrives here."""

    def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
        return (0.0,) if number % 2 == 0 else ()


class SlowLink(Fault):
    """Replies of one site take longer than the centre waits before it asks again: they come late, and twice."""

    def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
        return (1.0,) if site == "south" else (0.0,)


class Duplicates(Fault):
    """Everything arrives three times, once of them much later."""

    def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
        return (0.0, 0.0, 0.4)


class Outage(Fault):
    """A site's link is cut after its third message, for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._cut_at: float | None = None

    def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
        if site == "south" and number == 3:
            self._cut_at = time.monotonic()
            return ()
        return (0.0,)

    def online(self, site: str) -> bool:
        cut = self._cut_at is not None and time.monotonic() < self._cut_at + self._seconds
        return site != "south" or not cut


@pytest.mark.parametrize(
    "fault",
    [
        LostMessages(),
        *(
            pytest.param(fault, marks=pytest.mark.soak)
            for fault in (LostReplies(), Duplicates(), Outage(0.8))
        ),
        pytest.param(SlowLink(), marks=SOAK_CI),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_an_outage_within_the_deadline_changes_no_bit(
    fault: Fault, folders: list[Path], keys: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    outcome = run(grid_with(fault, folders), keys, tmp_path / "run")
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert_same(undisturbed, tmp_path / "run")


@pytest.mark.soak
def test_everything_in_flight_is_forgotten_and_asked_for_again(
    folders: list[Path], keys: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    """As when the SuperLink comes back with an older state."""
    grid = grid_with(NoFault(), folders)
    push = grid.push_messages

    def push_and_forget(messages: object) -> list[str]:
        ids = push(messages)  # type: ignore[arg-type]
        if len(grid.asked) in (4, 5):
            grid.forget()
        return ids

    grid.push_messages = push_and_forget  # type: ignore[method-assign]
    assert run(grid, keys, tmp_path / "run").status is Status.COMPLETE_ALL_SITES
    assert_same(undisturbed, tmp_path / "run")


def test_a_full_disk_is_waited_for(
    folders: list[Path],
    keys: dict[str, str],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, failures = atomic.write, 3

    def full(path: Path, content: bytes) -> None:
        nonlocal failures
        if path.name == "round_000002.safetensors" and failures:
            failures -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(atomic, "write", full)
    events: list[Event] = []
    outcome = run(grid_with(NoFault(), folders), keys, tmp_path / "run", observer=events.append)
    assert failures == 0
    assert outcome.status is Status.COMPLETE_ALL_SITES
    (news,) = [event for event in events if isinstance(event, CentreNews)]
    assert "the disk is full" in news.reason
    assert_same(undisturbed, tmp_path / "run")


class Away(Fault):
    """A site does not get the messages of round 1; once the others have answered, time flies past its deadline."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._clock = Clock()
        self._answered: set[str] = set()
        monkeypatch.setattr(loop, "time", self._clock)

    def sending(self, site: str, message: Message, number: int) -> bool:
        return not (site == "south" and message.metadata.group_id.endswith("/1"))

    def pulled(self, site: str, reply: Message) -> None:
        if reply.metadata.group_id.endswith("/1"):
            self._answered.add(site)
            if self._answered == {"north", "west"}:
                self._clock.ahead_s = 2000.0


def rounds_of(events: Sequence[Event]) -> list[RoundRecord]:
    return [event for event in events if isinstance(event, RoundRecord)]


def test_a_site_away_past_its_deadline_is_named_and_used_again(
    folders: list[Path], keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    settings = configured(SUBSET.replace("rounds = 2", "rounds = 4"))
    grid = grid_with(Away(monkeypatch), folders)
    outcome = run(grid, keys, tmp_path / "run", settings=settings, observer=events.append)
    assert outcome.status is Status.COMPLETE_SUBSET
    assert set(outcome.missing) == {"south"}
    records = rounds_of(events)
    assert "no reply within 1000 s" in records[0].dropped["south"]
    assert any("south" in record.participants for record in records[1:])
    states = [event.state for event in events if isinstance(event, SiteNews) and event.site == "south"]
    assert states[:1] == ["present"]
    assert states[-2:] == ["away", "present"]
    run_undisturbed(
        folders,
        settings,
        tmp_path / "replay",
        app=replay((r.group, r.round, r.participants) for r in records),
    )
    assert_same(tmp_path / "run", tmp_path / "replay")


class Late(Away):
    """All get their messages; a site's replies to training lie with it until all rounds are over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, late: str) -> None:
        super().__init__(monkeypatch)
        self.over = threading.Event()
        self._late = late
        self._counted: dict[str, set[str]] = {}

    def sending(self, site: str, message: Message, number: int) -> bool:
        return True

    def replying(self, site: str, reply: Message, number: int) -> Sequence[float]:
        if site == self._late and reply.metadata.message_type == wire.TRAIN:
            self.over.wait()
        return (0.0,)

    def pulled(self, site: str, reply: Message) -> None:
        if reply.metadata.message_type == wire.TRAIN:
            counted = self._counted.setdefault(reply.metadata.group_id, set())
            if site not in counted and len(counted | {site}) == len(NAMES) - 1:
                self._clock.ahead_s += 2000.0
            counted.add(site)


def test_a_late_site_is_dropped_at_the_deadline(
    folders: list[Path], keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Late(monkeypatch, "south")

    def observer(event: Event) -> None:
        if isinstance(event, RoundRecord) and event.round == 2:
            late.over.set()

    settings = configured(SUBSET.replace("rounds = 2", "rounds = 1"))
    grid = grid_with(late, folders)
    try:
        outcome = run(grid, keys, tmp_path / "run", settings=settings, observer=observer)
        assert late.over.is_set()
    finally:
        late.over.set()
        grid.settle()
    assert outcome.missing == {"south": 2}


@pytest.mark.soak
def test_where_the_quorum_cannot_do_without_a_site_the_campaign_stops_and_can_be_resumed(
    folders: list[Path],
    keys: dict[str, str],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        grid = grid_with(Away(patch), folders)
        with pytest.raises(CampaignError, match=r"of 3 of 3 sites, got 2 \(south: no reply within 1000 s"):
            run(grid, keys, tmp_path / "run")
    outcome = run(grid_with(NoFault(), folders), keys, tmp_path / "run")
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert_same(undisturbed, tmp_path / "run")


def answering(site: str, code: str, *, until: int, version: str = VERSION) -> App:
    """Sites of which one refuses its first messages."""
    asked = 0

    def app(message: Message, context: Context) -> Message:
        nonlocal asked
        if Path(str(context.node_config["site-folder"])).name == site:
            asked += 1
            if asked <= until:
                refusal = Refusal(site=site, code=code, version=version)
                return Message(wire.encode(refusal), reply_to=message)
        return client_app(message, context)

    return app


@pytest.mark.parametrize("code", ["unapproved", "paused", "hours", "busy"])
def test_what_may_pass_is_waited_for(
    code: str, folders: list[Path], keys: dict[str, str], tmp_path: Path
) -> None:
    events: list[Event] = []
    grid = FaultyGrid(folders, in_process(answering("south", code, until=3)), NoFault())
    outcome = run(
        grid,
        keys,
        tmp_path / "run",
        settings=configured("[federation]\nrounds = 1"),
        observer=events.append,
    )
    assert outcome.status is Status.COMPLETE_ALL_SITES
    news = [event for event in events if isinstance(event, SiteNews) and event.site == "south"]
    assert [(event.state, event.reason) for event in news] == [("waiting", code), ("present", "")]


@pytest.mark.parametrize("code", [pytest.param("internal", marks=pytest.mark.soak), "storage"])
def test_what_broke_at_a_site_may_be_mended_before_the_deadline(
    code: str, folders: list[Path], keys: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    broken = answering("south", code, until=3)

    def app(message: Message, context: Context) -> Message:
        return (broken if message.metadata.message_type == wire.TRAIN else client_app)(message, context)

    outcome = run(FaultyGrid(folders, in_process(app), NoFault()), keys, tmp_path / "run")
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert_same(undisturbed, tmp_path / "run")


def test_a_site_of_another_version_is_refused_with_both(
    folders: list[Path], keys: dict[str, str], tmp_path: Path
) -> None:
    grid = FaultyGrid(
        folders, in_process(answering("south", "policy", until=10**6, version="0.9")), NoFault()
    )
    with pytest.raises(PolicyError, match=rf"south runs synofed 0\.9, the centre {VERSION}: bring both"):
        run(grid, keys, tmp_path / "all")
    outcome = run(grid, keys, tmp_path / "subset", settings=configured(SUBSET))
    assert (outcome.status, set(outcome.missing)) == (Status.COMPLETE_SUBSET, {"south"})


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusal(), f"south refuses the package of synofed {VERSION}, though it runs the same version"),
        (refusal().replace(VERSION, "0.9"), f"south runs synofed 0.9, the centre {VERSION}: bring both"),
        ("anything", f"south runs synofed of another version, the centre {VERSION}: bring both"),
    ],
)
def test_a_site_that_refuses_the_package_is_told_with_both_versions(
    folders: list[Path], keys: dict[str, str], tmp_path: Path, answer: str, says: str
) -> None:
    def app(message: Message, context: Context) -> Message:
        if Path(str(context.node_config["site-folder"])).name == "south":
            return Message(Error(ErrorCode.INVALID_FAB, answer), reply_to=message)
        return client_app(message, context)

    with pytest.raises(PolicyError, match=re.escape(says)):
        run(FaultyGrid(folders, in_process(app), NoFault()), keys, tmp_path / "run")


def test_a_site_with_another_key_than_the_registered_one_does_not_take_part(
    folders: list[Path], keys: dict[str, str], tmp_path: Path
) -> None:
    grid = grid_with(NoFault(), folders)
    with pytest.raises(PolicyError, match=r"south answers as 'south' with key .{16}, registered is key 0000"):
        run(grid, {**keys, "south": "0" * 64}, tmp_path / "run")


def test_a_node_that_is_not_registered_is_not_asked(
    folders: list[Path], keys: dict[str, str], tmp_path: Path
) -> None:
    grid = grid_with(NoFault(), folders)
    known = {site: key for site, key in keys.items() if site != "west"}
    outcome = run(grid, known, tmp_path / "run", settings=configured("[federation]\nrounds = 1"))
    assert outcome.sites == ("north", "south")
    assert {site for site, _ in grid.asked} == {"north", "south"}


def test_a_site_that_was_revoked_is_named(folders: list[Path], keys: dict[str, str], tmp_path: Path) -> None:
    left = Roster.of({site: key for site, key in keys.items() if site != "west"}, gone=["west"])

    def start(text: str) -> Outcome:
        return campaign.run(
            grid_with(NoFault(), folders),
            configured(text),
            roster=left,
            folder=tmp_path / str(len(text)),
            campaign="test",
            observer=lambda event: None,
            pace=PACE,
        )

    with pytest.raises(PolicyError, match="cannot do without: west is no longer registered"):
        start("[federation]\nrounds = 1")
    outcome = start("[federation]\nrounds = 1\nquorum = 2")
    assert (outcome.status, outcome.missing) == (Status.COMPLETE_SUBSET, {"west": 2})
