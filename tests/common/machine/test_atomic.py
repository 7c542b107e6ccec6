"""Files are there whole or not at all: disks that fill, and processes that are killed, at every step."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.machine import atomic, file_lock
from tests.full_disk import limited_files

KILLED_WITH_A_DRAFT = """
import os, signal, sys
from pathlib import Path
from common.machine import atomic
with atomic.drafted(Path(sys.argv[1]), b"secret", mode=0o600):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path) -> Path:
    """What a process that was killed before it renamed its draft left."""
    ended = subprocess.run([sys.executable, "-c", KILLED_WITH_A_DRAFT, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = (place for place in path.parent.iterdir() if place.name.startswith(f".{path.name}-"))
    return left


def test_what_a_killed_process_left_goes_with_the_next_write_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "patients.json"
    path.write_bytes(b"old")
    left = killed(path)
    assert (path.read_bytes(), left.read_bytes()) == (b"old", b"secret")
    atomic.write(tmp_path / "other", b"x")
    assert left.exists()
    atomic.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert sorted(place.name for place in tmp_path.iterdir()) == ["other", "patients.json"]


def test_a_link_that_is_called_as_a_draft_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / ".file-0123abcd"
    link.symlink_to(tmp_path / "target")
    atomic.write(tmp_path / "file", b"new")
    assert link.is_symlink()
    assert not (tmp_path / "target").exists()


def test_a_draft_that_somebody_still_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic.drafted(path, b"one", mode=0o600) as draft:
        atomic.write(path, b"two")
        assert draft.read_bytes() == b"one"
        draft.replace(path)
    assert path.read_bytes() == b"one"
    assert [place.name for place in tmp_path.iterdir()] == ["file"]


def test_a_draft_that_is_taken_for_left_over_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, take = tmp_path / "file", file_lock.take
    removed: list[Path] = []

    def removed_first(file: object, *, wait: bool = True) -> None:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        take(file, wait=wait)  # type: ignore[arg-type]

    monkeypatch.setattr(file_lock, "take", removed_first)
    atomic.write(path, b"new")
    assert len(removed) == 1
    assert [place.name for place in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"


def test_many_writers_of_one_file_leave_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 10_000 for number in range(8)]
    failed: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(20):
                atomic.write(path, content)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_bytes() in contents
    assert [place.name for place in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_cannot_lock_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed(tmp_path / "file")

    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    atomic.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert left.exists()  # it cannot be told from one that is being written


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.write(path, b"old", mode=0o600)
    with limited_files(1000), pytest.raises(OSError, match="too large"):
        atomic.write(path, bytes(5000))
    assert path.read_bytes() == b"old"
    assert [place.name for place in tmp_path.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_file_is_written_whole_or_not_at_all_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with limited_files(1000), pytest.raises(OSError, match=r"disk full|too large"):
        atomic.write_new(path, bytes(5000), mode=0o600)
    assert not path.exists()
    atomic.write_new(path, b"key", mode=0o600)
    with pytest.raises(FileExistsError):
        atomic.write_new(path, b"other", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"key", 0o600)


def test_what_is_added_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    atomic.append_line(path, "one")
    with limited_files(10), pytest.raises(OSError, match=r"disk full|too large"):
        atomic.append_line(path, "a line that does not fit")
    atomic.append_line(path, "two")
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_tree_is_brought_to_the_disk_with_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    atomic.sync_tree(tmp_path / "a")
    root = str(tmp_path.resolve())
    assert sorted(synced) == [f"{root}/a", f"{root}/a/b", f"{root}/a/b/file"]
    assert synced[-1] == f"{root}/a"
