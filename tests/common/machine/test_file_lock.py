"""Locks between real processes; how each part of a site and a centre uses them is in ``tests/test_locks.py``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.machine import file_lock
from common.machine.file_lock import LockedError
from tests.locking import held_elsewhere

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from common.machine import file_lock
with file_lock.alone(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "300"])
    print(child.pid, flush=True)
    time.sleep(300)
"""


def test_a_holder_that_is_killed_lets_go_whatever_it_started_lives_on(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert file_lock.holder(tmp_path) == process.pid
            with (
                pytest.raises(LockedError, match=f"^{process.pid} on .* since 20"),
                file_lock.alone(tmp_path),
            ):
                pass
            with pytest.raises(BlockingIOError):
                file_lock.hold(tmp_path / file_lock.NAME, wait=False)
            os.kill(process.pid, signal.SIGKILL)
            with file_lock.hold(tmp_path / file_lock.NAME):  # waits for the end
                os.kill(child, 0)
            assert file_lock.holder(tmp_path) is None
        finally:
            os.kill(child, signal.SIGKILL)


def test_who_waits_is_told_once_who_holds_it(tmp_path: Path) -> None:
    told: list[str] = []
    with held_elsewhere(tmp_path / file_lock.NAME, says="7 on elsewhere") as kill:

        def wait(held_by: str) -> None:
            told.append(held_by)
            kill()

        with file_lock.alone(tmp_path, wait=wait):
            assert (tmp_path / file_lock.NAME).read_text().startswith(f"{os.getpid()} on ")
    assert told == ["7 on elsewhere"]


def test_a_forked_child_shares_what_its_parent_holds(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    file = file_lock.hold(place)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        file.close()
        assert file_lock.is_held(place)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not file_lock.is_held(place)


def test_looking_neither_makes_nor_writes_a_lock(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    assert not file_lock.is_held(place)
    assert not place.exists()
    with file_lock.hold(place) as file:
        file.write(b"kept")
        assert file_lock.is_held(place)
    assert not file_lock.is_held(place)
    assert place.read_bytes() == b"kept"
    assert place.stat().st_mode & 0o777 == 0o600


def test_a_lock_that_is_refused_leaves_no_open_file(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "lock"):
        before = sum(1 for _ in Path("/proc/self/fd").iterdir())
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                file_lock.hold(tmp_path / "lock", wait=False)
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
