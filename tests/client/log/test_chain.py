import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.log import chain
from client.site import keys
from common.errors import DataError, StorageError, VerificationError
from common.hash_chain import START, Head
from tests.full_disk import limited_files


def written(folder: Path, entries: int = 6) -> Path:
    path = folder / chain.NAME
    path.unlink(missing_ok=True)
    for index in range(entries):
        chain.append(path, "reply", {"request_id": f"r{index}", "bytes": index})
    return path


def verified(path: Path) -> Head:
    """Where a log ends whose every line is an entry that follows from the one before."""
    for _ in chain.entries(path):
        pass
    return chain.head(path)


def test_entries_are_numbered_and_chained_from_zeros(tmp_path: Path) -> None:
    path = written(tmp_path, entries=3)
    lines = path.read_bytes().splitlines()
    previous = "0" * 64
    for number, line in enumerate(lines, start=1):
        content = json.loads(line)
        assert list(content) == ["seq", "time", "event", "request_id", "bytes", "prev"]
        assert (content["seq"], content["prev"]) == (number, previous)
        previous = hashlib.sha256(line).hexdigest()
    assert verified(path) == chain.head(path) == Head(sequence=3, hash=previous)
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_log_and_none_end_at_the_start(tmp_path: Path) -> None:
    assert verified(tmp_path / "none") == START
    (tmp_path / "empty").touch()
    assert verified(tmp_path / "empty") == chain.head(tmp_path / "empty") == START


@given(st.lists(st.integers(0, 3 * chain.BLOCK_BYTES), min_size=1, max_size=4))
def test_the_head_is_found_whatever_the_length_of_lines(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    path = tmp_path_factory.mktemp("log") / chain.NAME
    for number, length in enumerate(lengths, start=1):
        new = chain.append(path, "x" * length, {})
        assert new == chain.head(path) == verified(path)
        assert new.sequence == number


def _edited(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"bytes":2', b'"bytes":9') for line in lines]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_edited, "line 3 was edited"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: expected entry 3, got entry 4"),
        (lambda lines: lines[1:], "line 1: expected entry 1, got entry 2"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 2: expected entry 2, got entry 3"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "line 4: expected entry 4, got entry 3"),
        (lambda lines: [*lines[:3], b"", *lines[3:]], "line 4: expected an entry"),
        (lambda lines: [*lines[:3], b'{"seq":4}', *lines[4:]], "line 4: expected an entry"),
        (lambda lines: [*lines[:5], b"[]"], "line 6: expected an entry"),
    ],
)
def test_the_first_bad_line_is_named(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], says: str
) -> None:
    path = written(tmp_path)
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    with pytest.raises(VerificationError, match=says):
        verified(path)


@given(st.data())
def test_any_changed_byte_before_the_last_line_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = written(tmp_path_factory.mktemp("log"), entries=4)
    content = bytearray(path.read_bytes())
    last = content[:-1].rindex(b"\n")
    where = data.draw(st.integers(0, last))
    content[where] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[where]))
    path.write_bytes(content)
    with pytest.raises(VerificationError):
        verified(path)


@given(st.integers(1, 10_000))
def test_a_line_that_a_crash_cut_short_is_reported_and_removed(
    tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    path = written(tmp_path_factory.mktemp("log"), entries=3)
    whole = path.read_bytes()
    torn = whole.splitlines()[-1][:kept]
    path.write_bytes(whole + torn)
    head = verified(path)
    assert (head.sequence, head.torn_bytes) == (3, len(torn))
    after = chain.append(path, "reply", {})
    assert after == verified(path)
    assert after.sequence == 5
    repaired = json.loads(path.read_bytes().splitlines()[3])
    assert repaired["event"] == "repaired"
    assert repaired["torn_bytes"] == len(torn)
    assert repaired["torn_hash"] == hashlib.sha256(torn).hexdigest()


def test_a_first_line_cut_short_is_removed_too(tmp_path: Path) -> None:
    path = tmp_path / chain.NAME
    path.write_bytes(b'{"seq":1')
    assert chain.append(path, "reply", {}).sequence == 2
    assert verified(path).torn_bytes == 0


def test_nothing_is_added_to_a_log_whose_end_is_damaged(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + b"note to self\n")
    before = path.read_bytes()
    with pytest.raises(VerificationError, match="last line"):
        chain.append(path, "reply", {})
    assert path.read_bytes() == before


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        chain.append(tmp_path / "nowhere" / chain.NAME, "reply", {})


def _append_many(path: Path) -> list[int]:
    with ThreadPoolExecutor(4) as threads:
        return list(
            threads.map(lambda _: chain.append(path, "reply", {"pid": os.getpid()}).sequence, range(40))
        )


def test_threads_and_processes_share_one_numbering(tmp_path: Path) -> None:
    path = tmp_path / chain.NAME
    with multiprocessing.get_context("spawn").Pool(3) as processes:
        numbers = [number for part in processes.map(_append_many, [path] * 3) for number in part]
    assert sorted(numbers) == list(range(1, 121))
    assert verified(path).sequence == 120


def test_the_signing_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: keys.public_key(tmp_path), range(32)))
    assert len(found) == 1
    assert keys.path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["receipt.pem"]


def test_a_damaged_signing_key_is_not_replaced(tmp_path: Path) -> None:
    keys.signing_key(tmp_path)
    keys.path(tmp_path).write_text("broken", encoding="utf-8")
    with pytest.raises(DataError, match="restore it from a backup"):
        keys.signing_key(tmp_path)
    assert keys.path(tmp_path).read_text(encoding="utf-8") == "broken"


@given(st.lists(st.sampled_from(["a", "b", 'c","seq":"', "long"]), max_size=30), st.integers(30, 700))
def test_the_newest_entries_of_a_value_are_found_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], block: int
) -> None:
    path = tmp_path_factory.mktemp("log") / chain.NAME
    for name in names:
        chain.append(
            path, "reply", {"request_id": name, "more": "x" * (900 if name == "long" else 3)}, durable=False
        )
    whole, chain.SEARCH_BYTES = chain.SEARCH_BYTES, block
    try:
        for name in ("a", "b", 'c","seq":"', "long", "none"):
            expected = [number for number, other in enumerate(names, start=1) if other == name]
            assert [entry.sequence for entry in chain.newest(path, "request_id", name)] == expected[::-1]
    finally:
        chain.SEARCH_BYTES = whole


def test_an_entry_that_says_nothing_new_is_not_added(tmp_path: Path) -> None:
    path = tmp_path / chain.NAME
    assert chain.append_new(path, "policy", {"rounds": 1})
    chain.append(path, "reply", {"rounds": 2})
    assert not chain.append_new(path, "policy", {"rounds": 1})
    assert chain.append_new(path, "policy", {"rounds": 2})
    assert chain.append_new(path, "policy", {"rounds": 1})
    last = chain.last(path)
    assert last is not None
    assert (last.sequence, last.content["event"]) == (4, "policy")


@pytest.mark.parametrize("room", [0, 5, 60])
def test_a_full_disk_leaves_no_half_of_an_entry(tmp_path: Path, room: int) -> None:
    path = written(tmp_path, entries=3)
    before = path.read_bytes()
    with limited_files(len(before) + room), pytest.raises(StorageError, match="cannot be written"):
        chain.append(path, "reply", {"request_id": "r3"})
    assert path.read_bytes() == before
    assert chain.append(path, "reply", {"request_id": "r3"}).sequence == 4
