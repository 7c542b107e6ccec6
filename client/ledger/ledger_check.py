"""Checks a site's privacy ledger against everything that has noted where it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from client.ledger import issued_receipts, ledger_file, ledger_patients
from client.log import chain as log
from client.log.audit import CONSENT, REPLY
from common.errors import VerificationError
from common.privacy.accounting import chain
from common.privacy.accounting.chain import Entry, Head
from common.privacy.accounting.spending import Book, PrivateRelease
from common.receipts import Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A ledger that fits.

    Attributes:
        head: where it ends.
        private: releases with privacy.
        unbounded: bookings of releases without.
        patients: who were ever booked.
        withdrawn: who withdrew.
        replies: entries of the site's log that name a place in it.
        receipts: receipts that name a place in it.
    """

    head: Head
    private: int
    unbounded: int
    patients: int
    withdrawn: int
    replies: int
    receipts: int


def check(folder: Path, kept: Iterable[Kept] = (), noted: Iterable[str] = ()) -> Checked:
    """Check a ledger, its tables, and that it holds whatever log, receipts and paper know of it.

    Args:
        folder: the site's.
        kept: receipts from the centre, of any number of runs.
        noted: codes of earlier heads, as :func:`common.privacy.accounting.chain.spoken` writes them.

    Raises:
        VerificationError: naming what does not fit.
        StorageError: if the ledger cannot be read.
    """
    found = ledger_file.read(folder)
    book = Book.of(found.entries)
    if found.entries:
        _check_secret(folder, book)
        ledger_patients.patients(folder, book)
        ledger_patients.withdrawn(folder, book)
    replies = 0
    for sequence, digits, who in _logged(folder):
        _check_holds(folder, found.entries, sequence, digits, who=who)
        replies += 1
    named = 0
    for sequence, digits, who in _received(folder, kept):
        _check_holds(folder, found.entries, sequence, digits, who=who)
        named += 1
    for code in noted:
        sequence, digits = chain.heard(code)
        _check_holds(folder, found.entries, sequence, digits, who=f"the note {code}")
    private = sum(isinstance(booked.release, PrivateRelease) for booked in book.releases)
    return Checked(
        head=found.head,
        private=private,
        unbounded=len(book.releases) - private,
        patients=len(book.commitments),
        withdrawn=len(book.withdrawn),
        replies=replies,
        receipts=named,
    )


def _check_secret(folder: Path, book: Book) -> None:
    place = folder / ledger_file.FOLDER / "secret"
    if not place.exists() or ledger_file.secret_hash(place.read_bytes()) != book.opened["secret"]:
        raise VerificationError(
            f"Expected the secret of the ledger in {place}, got a different one or none: without it no "
            "patient can be found "
            f"again; restore it from a backup"
        )


def _logged(folder: Path) -> Iterator[tuple[int, str, str]]:
    for entry in log.entries(folder / log.NAME):
        sequence = entry.content.get("ledger_sequence")
        if entry.content.get("event") in (CONSENT, REPLY) and isinstance(sequence, int) and sequence:
            yield (
                sequence,
                str(entry.content.get("ledger_head")),
                f"entry {entry.sequence} of the site's log",
            )


def _received(folder: Path, kept: Iterable[Kept]) -> Iterator[tuple[int, str, str]]:
    for receipt, place in issued_receipts.places(folder, kept):
        if place is not None and place.ledger_sequence:
            yield place.ledger_sequence, place.ledger_head, f"the centre's receipt {receipt.sequence}"


def _check_holds(folder: Path, entries: tuple[Entry, ...], sequence: int, digits: str, *, who: str) -> None:
    """``digits``: the hash, or its beginning."""
    place = folder / ledger_file.NAME
    if sequence > len(entries):
        raise VerificationError(
            f"{place} ends with entry {len(entries)}, {who} knows entry {sequence}: the tail was cut off, or an "
            f"older copy was put back"
        )
    if sequence and not entries[sequence - 1].hash.startswith(digits):
        raise VerificationError(
            f"{place}, line {sequence}: expected the entry that {who} knows ({digits:.16}), got another "
            f"({entries[sequence - 1].hash:.16}): an older copy was put back and written on"
        )
