"""Lines are read once, whatever happens to their file."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.machine import following
from common.machine.following import Following, Remembered
from tests.counted_reads import counted


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(b'{"entry": %d, "filling": "%s"}\n' % (n, b"x" * 100) for n in range(100_000)))
    read, log = counted(monkeypatch), Following(path)
    assert len(log.look().lines) == 100_000
    assert sum(read) == path.stat().st_size
    read.clear()
    assert log.look() == following.Added()
    assert read == []
    append(path, b"one more\n")
    assert log.look().lines == [b"one more"]
    assert sum(read) == len(b"one more\n") + following.KNOWN_BYTES


def test_only_the_end_of_a_long_file_is_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"".join(b"line %06d\n" % n for n in range(10_000)))
    read, log = counted(monkeypatch), Following(path, last_bytes=100)
    assert log.look().lines == [b"line %06d" % n for n in range(9_992, 10_000)]
    assert sum(read) == 100


def test_a_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    log = Following(tmp_path / "rounds.jsonl")
    assert log.look() == following.Added()
    append(log.path, b'{"half":')
    assert log.look().lines == ()
    append(log.path, b" 1}\n{")
    assert log.look().lines == [b'{"half": 1}']


@pytest.mark.parametrize("content", [b"new\n", b"new and longer than before\n"])
def test_another_file_in_its_place_is_read_from_the_beginning(tmp_path: Path, content: bytes) -> None:
    log = Following(tmp_path / "rounds.jsonl")
    log.path.write_bytes(b"one\ntwo\n")
    assert log.look().lines == [b"one", b"two"]
    (tmp_path / "draft").write_bytes(content)
    (tmp_path / "draft").replace(log.path)
    found = log.look()
    assert (found.lines, found.afresh) == ([content.strip()], True)
    log.path.unlink()
    assert log.look() == following.Added(afresh=True)
    assert log.look() == following.Added()
    log.path.write_bytes(b"again\n")
    assert log.look().lines == [b"again"]


def test_what_a_repair_cuts_off_was_never_told(tmp_path: Path) -> None:
    log = Following(tmp_path / "audit.jsonl")
    log.path.write_bytes(b"one\ntorn")
    assert log.look().lines == [b"one"]
    os.truncate(log.path, 4)
    append(log.path, b"repaired\n")
    assert log.look() == following.Added(lines=[b"repaired"])


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_all_lines_come_once_and_in_order(pieces: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        log = Following(Path(folder) / "log")
        found: list[bytes] = []
        for piece in pieces:
            append(log.path, piece)
            added = log.look()
            assert not added.afresh
            found += added.lines
        assert found == b"".join(pieces).split(b"\n")[:-1]


def test_what_is_made_of_files_is_made_again_when_one_changes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    made: list[int] = []
    kept = Remembered([one, other], lambda: made.append(len(made)) or len(made))  # type: ignore[func-returns-value]
    assert [kept.look(), kept.look()] == [1, 1]
    other.write_text("there")
    assert [kept.look(), kept.look()] == [2, 2]
