import hashlib
import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import VerificationError
from common.privacy.accounting import chain, spending
from common.privacy.accounting.chain import START, Head
from common.privacy.accounting.spending import Book, History
from tests.ledgers import make_release, make_unbounded

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TIME = "2026-01-02T03:04:05+00:00"
OPENING: tuple[str, dict[str, object]] = (chain.OPENED, {"version": "1", "public_key": PUBLIC, "secret": "s"})


def written(
    *events: tuple[str, dict[str, object]], key: Ed25519PrivateKey = KEY, after: Head = START
) -> bytes:
    lines = b""
    for event, facts in events:
        line = chain.line(event, facts, last=after, time=TIME, key=key)
        lines += line + b"\n"
        after = Head(sequence=after.sequence + 1, hash=hashlib.sha256(line).hexdigest())
    return lines


def booking(request_id: str, *, new: int = 0, eligible: list[list[int]] | None = None) -> dict[str, object]:
    commitments = [hashlib.sha256(f"{request_id}{number}".encode()).hexdigest() for number in range(new)]
    return {**make_release(request_id).facts(), "new": commitments, "eligible": eligible or []}


def a_ledger() -> bytes:
    return written(
        OPENING,
        (chain.PRIVATE, booking("r1", new=3, eligible=[[0, 2]])),
        (chain.PRIVATE, booking("r2", new=1, eligible=[[1, 3]])),
        (chain.PRIVATE, booking("r3", eligible=[[0, 0], [3, 3]])),
    )


def test_the_test_vector_of_the_documentation() -> None:
    first = a_ledger().splitlines()[0]
    assert hashlib.sha256(first).hexdigest() == (
        "0803eaf8b8d9fea8b8e306609cdb339b7b8469e0e975814f3385b3cd1ff10536"
    )
    salt, pseudonym = bytes(range(32)), bytes(range(32, 64))
    assert chain.commitment(salt, pseudonym) == (
        "e2dc598b37fc070a30e94e7b98229dc33e3ec3e48113fefce9fc4e01e38b4254"
    )


def test_a_line_is_checked_without_writing_json_again() -> None:
    for line in a_ledger().splitlines():
        body, _, rest = line.rpartition(b',"signature":"')
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(PUBLIC))
        key.verify(bytes.fromhex(rest[:128].decode()), b"synofed ledger 1\n" + body + b"}")


def test_a_whole_ledger_adds_up() -> None:
    found = chain.check(a_ledger(), public_key=PUBLIC)
    book = Book.of(found.entries)
    assert found.head.sequence == len(found.entries) == 4
    assert found.size_bytes == len(a_ledger())
    assert [sum(step.count for step in history.steps) for history in book.histories()] == [2, 2, 2, 2]
    assert [sorted(one.eligible) for one in book.releases] == [[0, 1, 2], [1, 2, 3], [0, 3]]


@given(st.integers(0, 4))
def test_a_part_is_checked_after_another(parts: int) -> None:
    lines = a_ledger().splitlines(keepends=True)
    first = chain.check(b"".join(lines[:parts]), public_key=PUBLIC)
    second = chain.check(b"".join(lines[parts:]), public_key=PUBLIC, after=first.head)
    assert second.head == chain.check(a_ledger(), public_key=PUBLIC).head


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"noise_multiplier":5.0', b'"noise_multiplier":9.0'), *lines[2:]],
         "line 2 was edited"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: expected entry 3, got entry 4"),
        (lambda lines: lines[1:], "line 1: expected entry 1, got entry 2"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "line 2: expected entry 2, got entry 3"),
        (lambda lines: [*lines[:3], lines[2], lines[3]], "line 4: expected entry 4, got entry 3"),
        (lambda lines: [*lines[:2], b"", *lines[2:]], "line 3: expected a signed entry"),
        (lambda lines: [*lines[:3], b'{"seq":4}'], "line 4: expected a signed entry"),
        (lambda lines: [*lines[:3], lines[3][:-140] + b"}"], "line 4: expected a signed entry"),
        (lambda lines: [*lines[:2], *a_copy().splitlines()[2:]], "line 3 does not continue line 2"),
    ],
)  # fmt: skip
def test_the_first_bad_line_is_named(change: Callable[[list[bytes]], list[bytes]], says: str) -> None:
    lines = b"".join(line + b"\n" for line in change(a_ledger().splitlines()))
    with pytest.raises(VerificationError, match=says):
        chain.check(lines, public_key=PUBLIC)


def a_copy() -> bytes:
    """Another ledger of the same key."""
    return written(
        OPENING,
        (chain.PRIVATE, booking("other", new=3)),
        (chain.PRIVATE, booking("r2", new=1)),
    )


@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    content = bytearray(a_ledger())
    where = data.draw(st.integers(0, len(content) - 2))
    content[where] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[where]))
    case_of_a_hex_digit = bytes(content).lower() == a_ledger().lower()
    if not case_of_a_hex_digit:
        with pytest.raises(VerificationError):
            chain.check(bytes(content), public_key=PUBLIC)


def test_a_line_that_another_key_signed_does_not_count() -> None:
    with pytest.raises(VerificationError, match="line 1 was edited, or another site's key"):
        chain.check(written(OPENING, key=OTHER), public_key=PUBLIC)
    opening = (chain.OPENED, {**OPENING[1], "public_key": "0" * 64})
    with pytest.raises(VerificationError, match="line 1: expected it to open the ledger of key"):
        chain.check(written(opening), public_key=PUBLIC)
    with pytest.raises(VerificationError, match="line 1: expected it to open"):
        chain.check(written((chain.PRIVATE, booking("r"))), public_key=PUBLIC)


@given(st.integers(1, 600))
def test_a_line_cut_short_is_counted_and_left(cut: int) -> None:
    lines = a_ledger().splitlines(keepends=True)
    torn = lines[3][: min(cut, len(lines[3]) - 1)]
    found = chain.check(b"".join(lines[:3]) + torn, public_key=PUBLIC)
    assert (found.head.sequence, found.head.torn_bytes) == (3, len(torn))
    assert found.size_bytes == sum(map(len, lines[:3]))


@pytest.mark.parametrize("event", ["gift", "", "PRIVATE"])
def test_an_event_that_is_not_known_is_refused(event: str) -> None:
    with pytest.raises(VerificationError, match="Expected an event"):
        written((event, {}))


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.0},
        {"sample_rate": 1.5},
        {"steps": 0},
        {"steps": True},
        {"eligible": [[0, 3]]},
        {"eligible": [[-1, 0]]},
        {"eligible": None},
        {"noise_multiplier": None},
    ],
)
def test_an_entry_of_unknown_cost_never_counts_as_none(change: dict[str, object]) -> None:
    lines = written(OPENING, (chain.PRIVATE, booking("r1", new=3) | change))
    entries = chain.check(lines, public_key=PUBLIC).entries
    with pytest.raises(VerificationError, match="Entry 2 of the ledger"):
        Book.of(entries)


def test_infinite_facts_cannot_be_written() -> None:
    with pytest.raises(VerificationError, match="Expected facts"):
        written((chain.PRIVATE, booking("r1") | {"noise_multiplier": float("inf")}))


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_every_number_once(numbers: set[int]) -> None:
    ranges = chain.to_ranges(numbers)
    assert chain.from_ranges(ranges) == numbers
    assert all(first <= last for first, last in ranges)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(ranges))


@given(st.integers(0, 10**6), st.binary(min_size=32, max_size=32))
def test_a_code_for_paper_is_heard_as_it_was_spoken(sequence: int, digest: bytes) -> None:
    code = chain.spoken(Head(sequence=sequence, hash=digest.hex()))
    assert chain.heard(f" {code.upper()} ") == (sequence, digest.hex()[:20])


@pytest.mark.parametrize(
    "code",
    ["", "17", "x-0000-0000-0000-0000-0000", "17-0000-0000", "17-zzzz-0000-0000-0000-0000"],
)
def test_what_is_no_code_is_said(code: str) -> None:
    with pytest.raises(VerificationError, match="Expected a code"):
        chain.heard(code)


def test_patients_of_one_history_cost_one_computation() -> None:
    before = History().then(make_release("r1")).then(make_release("r2", sigma=3.0))
    after = History().then(make_release("r2", sigma=3.0)).then(make_release("r1"))
    assert before == after
    assert spending.worst([before, after, History()], delta=1e-5) == before.epsilon(delta=1e-5) > 0
    unbounded = before.then(make_unbounded())
    assert unbounded.unbounded
    assert unbounded.epsilon(delta=1e-5) == before.epsilon(delta=1e-5)


def test_an_entry_holds_all_that_a_recomputation_needs() -> None:
    entry = json.loads(a_ledger().splitlines()[1])
    expected = {
        "kind",
        "campaign",
        "plan_hash",
        "request_id",
        "version",
        "noise_multiplier",
        "sample_rate",
        "steps",
    }
    assert expected | {"max_grad_norm", "patients", "images", "new", "eligible", "prev"} <= set(entry)
