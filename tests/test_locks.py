"""Who changes something waits for, or is refused by, a process that holds the lock where earlier versions did.

An old and a new version of synofed work side by side while a hospital changes over: both have to lock one path.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.connection import join
from client.data import store
from client.data.ingest import placing
from client.files.lock import locked
from client.ledger import ledger_file
from client.log import chain
from client.state import busy, decisions
from common.errors import BusyError, ConfigurationError, StorageError, SynofedError
from common.machine import file_lock
from server.federation import registry
from tests.ledgers import make_site
from tests.locking import held_elsewhere


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    chain.append(folder / chain.NAME, "reply", {})
    yield


WAITING: dict[str, tuple[str, Callable[[Path], object]]] = {
    "log": ("audit.jsonl", logged),
    "ledger": ("ledger.jsonl", ledger_file.opened),
    "import": (".lock", placing.private_folder),
    "store": (".lock", store._locked),
    "decisions": (".lock", decisions.locked),
    "sum": ("sum.lock", lambda folder: locked(folder / "sum.lock")),
    "registry": (".registry.lock", registry.lock),
    "cohort": (".lock", lambda folder: file_lock.alone(folder, wait=lambda _: None)),
}


@pytest.mark.parametrize("name", WAITING)
def test_who_waits_goes_on_when_the_holder_is_killed(tmp_path: Path, name: str) -> None:
    place, enters = WAITING[name]
    folder = make_site(tmp_path / "site").folder
    folder.chmod(0o700)
    entered = threading.Event()

    def enter() -> None:
        with enters(folder):  # type: ignore[attr-defined]
            entered.set()

    with held_elsewhere(folder / place) as kill:
        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        assert not entered.wait(0.6)
        kill()
        assert entered.wait(60)
        thread.join(60)
    assert not file_lock.is_held(folder / place)


def test_who_does_not_wait_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flower").mkdir()
    with (
        held_elsewhere(tmp_path / ".working"),
        pytest.raises(BusyError, match="Another process works"),
        busy.working(tmp_path),
    ):
        pass
    with busy.working(tmp_path), busy.working(tmp_path):
        assert file_lock.is_held(tmp_path / ".working")
    with held_elsewhere(tmp_path / "flower" / ".lock", says="1234\n"):
        assert join.runs(tmp_path)
        with (
            pytest.raises(ConfigurationError, match="by process 1234: end that one first"),
            join.locked(tmp_path),
        ):
            pass
    assert not join.runs(tmp_path)


@pytest.mark.parametrize("name", ["busy", "decisions", "join"])
def test_a_disk_that_cannot_lock_is_not_taken_for_a_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises((StorageError, OSError), match="No locks available") as told:
        {"busy": busy.working, "decisions": decisions.locked, "join": join.locked}[name](tmp_path).__enter__()
    assert not isinstance(told.value, SynofedError) or isinstance(told.value, StorageError)
