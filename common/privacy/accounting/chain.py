r"""The bytes of a site's privacy ledger, and their verification from the bytes alone.

A ledger is lines of JSON. Each has its number, the hash of the line before and, as its last member, a signature by
the site's key. What is signed is the line as it stands but for that member, so that nobody has to write JSON the way
we do to check it:

* line: ``{"seq":N,"time":T,"event":E,...,"prev":P,"signature":"S"}``, then a newline
* signed: ``synofed ledger 1\n``, then the line up to ``,"signature":"``, then ``}``
* hash: SHA-256 of the line without its newline; before the first line 64 zeros

The first line is ``opened`` and names the key. Patients are numbers, given by the order in which their commitments
first stand under ``new``: SHA-256 of ``synofed patient 1\n``, a salt of 32 bytes, and a pseudonym of 32 bytes.
Without the salt, which lies elsewhere and can be erased, a commitment says nothing of anybody.

Offline, an edit, a line that is missing, added or moved is found; a tail cut off whole, or an older copy put back,
needs something that was noted elsewhere: a receipt, or the code of :func:`spoken` on paper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common import hash_chain, signed_json
from common.errors import VerificationError
from common.hash_chain import START, Entry, Head

__all__ = [
    "CODE_DIGITS",
    "DOMAIN",
    "EVENTS",
    "NAME",
    "OPENED",
    "PATIENT",
    "PRIVATE",
    "REPAIRED",
    "SIGNATURE",
    "SIGNATURE_HEX",
    "START",
    "UNBOUNDED",
    "WITHDRAWN",
    "Chain",
    "Entry",
    "Head",
    "check",
    "commitment",
    "from_ranges",
    "heard",
    "line",
    "spoken",
    "to_ranges",
]

DOMAIN = b"synofed ledger 1\n"
"""Stands before what is signed, so that a signature can never pass for one over something else."""
PATIENT = b"synofed patient 1\n"
SIGNATURE = b',"signature":"'
SIGNATURE_HEX = 128
OPENED = "opened"
PRIVATE = "private"
UNBOUNDED = "unbounded"
WITHDRAWN = "withdrawn"
REPAIRED = "repaired"
EVENTS = frozenset({OPENED, PRIVATE, UNBOUNDED, WITHDRAWN, REPAIRED})
CODE_DIGITS = 20
NAME = "the ledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A part of a ledger, checked.

    Attributes:
        entries: in their order.
        head: after the last of them.
        size_bytes: of their lines with newlines.
    """

    entries: tuple[Entry, ...]
    head: Head
    size_bytes: int


def line(event: str, facts: Mapping[str, object], *, last: Head, time: str, key: Ed25519PrivateKey) -> bytes:
    """The next line, signed, without its newline.

    Args:
        event: one of ``EVENTS``.
        facts: of JSON's types, finite.
        last: where the ledger ends.
        time: ISO 8601.
        key: of the site.

    Raises:
        VerificationError: for an event that is not known, or facts that JSON cannot hold.
    """
    if event not in EVENTS:
        raise VerificationError(f"Expected an event of {sorted(EVENTS)}, got {event!r:.40}")
    try:
        text = hash_chain.line(event, facts, last=last, time=time)
    except (TypeError, ValueError) as error:
        raise VerificationError(f"Expected facts for a ledger entry, got something else: {error}") from None
    return text[:-1] + SIGNATURE + signed_json.sign(DOMAIN + text, key).encode() + b'"}'


def check(data: bytes, *, public_key: str, after: Head = START, name: str = NAME) -> Chain:
    """Check the lines of a ledger, or those that follow a part already checked.

    Args:
        data: the lines; an incomplete one at the end is counted and left.
        public_key: of the site, Ed25519 in hex.
        after: where the part before ends.
        name: of the ledger, for messages.

    Raises:
        VerificationError: naming the first line that was edited, dropped, added or moved.
    """
    key = _key(public_key)
    whole, _, torn = data.rpartition(b"\n")
    head, found = after, []
    for text in whole.split(b"\n") if b"\n" in data else []:
        entry = _entry(text, last=head, key=key, name=name)
        if entry.sequence == 1 and (
            entry.content["event"] != OPENED or entry.content.get("public_key") != public_key
        ):
            raise VerificationError(f"{name}, line 1: expected it to open the ledger of key {public_key:.16}")
        head = Head(sequence=entry.sequence, hash=entry.hash)
        found.append(entry)
    head = Head(sequence=head.sequence, hash=head.hash, torn_bytes=len(torn))
    return Chain(entries=tuple(found), head=head, size_bytes=len(data) - len(torn))


def spoken(head: Head) -> str:
    """A short code of a head for the paper file, ``17-9c3a-...``: its number and 80 bits of its hash."""
    digits = head.hash[:CODE_DIGITS]
    return "-".join([str(head.sequence), *(digits[at : at + 4] for at in range(0, CODE_DIGITS, 4))])


def heard(code: str) -> tuple[int, str]:
    """The number and the first digits of the hash in a code of :func:`spoken`.

    Raises:
        VerificationError: if it is no such code.
    """
    sequence, _, digits = code.strip().lower().partition("-")
    digits = digits.replace("-", "")
    if not sequence.isdecimal() or len(digits) != CODE_DIGITS or set(digits) - set("0123456789abcdef"):
        raise VerificationError(f"Expected a code like 17-9c3a-0b1d-77e2-41aa-c09f, got {code!r:.40}")
    return int(sequence), digits


def commitment(salt: bytes, pseudonym: bytes) -> str:
    """What the ledger says of a patient, in hex; without the salt nobody can tell whom it means."""
    return hashlib.sha256(PATIENT + salt + pseudonym).hexdigest()


def to_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers as ascending ranges, first and last of each."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def from_ranges(ranges: Sequence[Sequence[int]]) -> frozenset[int]:
    """Undo :func:`to_ranges`."""
    return frozenset(number for first, last in ranges for number in range(first, last + 1))


def _entry(text: bytes, *, last: Head, key: Ed25519PublicKey, name: str) -> Entry:
    number = last.sequence + 1
    where = f"{name}, line {number}"
    body, mark, signature = text.rpartition(SIGNATURE)
    try:
        if not mark or len(signature) != SIGNATURE_HEX + 2 or not signature.endswith(b'"}'):
            raise ValueError("no signature")
        content = signed_json.parse(body + b"}")
        sequence, previous, event = int(content["seq"]), content["prev"], content["event"]
        signed = bytes.fromhex(signature[:SIGNATURE_HEX].decode("ascii"))
    except (ValueError, KeyError, TypeError):
        raise VerificationError(
            f"{where}: expected a signed entry, got something else: it was edited"
        ) from None
    try:
        key.verify(signed, DOMAIN + body + b"}")
    except InvalidSignature:
        raise VerificationError(
            f"{where} was edited, or another site's key signed it: its signature does not fit"
        ) from None
    if sequence != number:
        raise VerificationError(
            f"{where}: expected entry {number}, got entry {sequence}: a line before it was dropped, added or moved"
        )
    if previous != last.hash:
        raise VerificationError(
            f"{where} does not continue line {number - 1}: lines of two copies were put together"
        )
    if event not in EVENTS:
        raise VerificationError(f"{where}: expected an event of {sorted(EVENTS)}, got {event!r:.40}")
    return Entry(sequence=sequence, hash=hashlib.sha256(text).hexdigest(), content=content)


def _key(public_key: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    except ValueError:
        raise VerificationError(f"Expected an Ed25519 key of 64 hex digits, got {public_key!r:.70}") from None
