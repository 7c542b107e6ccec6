"""Whatever breaks on the way of a secure sum: the same sum to the last bit, or a named site without which it is made.

Masks cancel exactly, so a campaign without noise has the same bits however often its messages were sent.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from client.ledger import ledger
from client.site import keys as site_keys
from common.settings import Settings
from server.campaign.campaign import Status
from server.campaign.events import Event
from simulation.cohorts import peers
from tests.federation import fault_processes
from tests.federation.fault_processes import NoFault
from tests.federation.faults import Fault, FaultyGrid, Sites, processes
from tests.federation.test_faults import Away, Duplicates, LostReplies, grid_with, rounds_of, run
from tests.federation.test_secure import PLAIN, SECURE, final, plain, site
from tests.marks import SOAK_CI

pytestmark = pytest.mark.slow
NAMES = ("north", "south", "west")
SUBSET = PLAIN.replace("rounds = 1", "rounds = 2\ndeadline_s = 1000.0") + SECURE


def configured() -> Settings:
    return plain(SUBSET.replace("quorum = 2", 'quorum = "all"'))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("sites")
    made = [site(base, name, seed=seed, grades=2) for seed, name in enumerate(NAMES)]
    peers.pin(made)
    return made


@pytest.fixture(scope="module")
def keys(folders: list[Path]) -> dict[str, str]:
    return {folder.name: site_keys.public_key(folder) for folder in folders}


@pytest.fixture(scope="module")
def undisturbed(folders: list[Path], keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(grid_with(NoFault(), folders), keys, folder, settings=configured())
    return final(folder).tobytes()


@pytest.mark.parametrize("fault", [LostReplies(), Duplicates()])
def test_replies_that_are_lost_or_come_twice_change_no_bit(
    fault: Fault, folders: list[Path], keys: dict[str, str], undisturbed: bytes, tmp_path: Path
) -> None:
    outcome = run(grid_with(fault, folders), keys, tmp_path / "run", settings=configured())
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert final(tmp_path / "run").tobytes() == undisturbed


@pytest.mark.parametrize("death", [pytest.param("training", marks=SOAK_CI), "replied"])
def test_a_site_that_is_killed_goes_on_with_its_attempt(
    death: str, folders: list[Path], keys: dict[str, str], undisturbed: bytes, tmp_path: Path
) -> None:
    sites = Sites(fault_processes.serve, {"south": death})
    try:
        grid = FaultyGrid(folders, sites.answer, NoFault())
        outcome = run(grid, keys, tmp_path / "run", settings=configured())
    finally:
        sites.close()
    assert sites.deaths == ["south"]
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert final(tmp_path / "run").tobytes() == undisturbed


def test_a_centre_that_is_killed_while_it_commits_opens_the_same_sum_again(
    folders: list[Path], keys: dict[str, str], undisturbed: bytes, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    centre = processes.Process(
        target=fault_processes.centre, args=(configured(), folders, tmp_path / "run", keys, "writing")
    )
    centre.start()
    centre.join()
    assert centre.exitcode == -signal.SIGKILL
    outcome = run(grid_with(NoFault(), folders), keys, tmp_path / "run", settings=configured())
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert final(tmp_path / "run").tobytes() == undisturbed


def test_a_site_away_past_its_deadline_is_named_and_the_others_sum(
    folders: list[Path], keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    grid = grid_with(Away(monkeypatch), folders)
    outcome = run(grid, keys, tmp_path / "run", settings=plain(SUBSET), observer=events.append)
    assert outcome.status is Status.COMPLETE_SUBSET
    assert set(outcome.missing) == {"south"}
    first = rounds_of(events)[0]
    assert first.participants == ("north", "west")
    assert "no reply within 1000 s" in first.dropped["south"]
    assert "(phase keys)" in first.dropped["south"]
    assert all(len(ledger.book(folder).releases) for folder in folders[::2])
