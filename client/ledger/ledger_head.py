"""Where the site's privacy ledger lies, where it ends, and what receipts tell of it."""

from __future__ import annotations

import secrets
from pathlib import Path

from client.files import atomic
from client.log import chain
from client.site import keys
from common import receipts
from common.errors import VerificationError
from common.hash_chain import Head

NAME = "ledger.jsonl"
FOLDER = "ledger"
"""Of what stands beside the chain and can be erased."""


def head(folder: Path) -> Head:
    """Where a site's ledger ends; reads no more than its tail and checks nothing.

    Raises:
        VerificationError: if its last line is no entry.
    """
    return chain.head(folder / NAME)


def of_campaign(folder: Path, plan_hash: str) -> Head:
    """What a campaign was booked so far: how much, and the hash of the entry that booked the last of it.

    Raises:
        VerificationError: if one of its lines is no entry.
    """
    newest = list(chain.newest(folder / NAME, "plan_hash", plan_hash))
    count, hash_ = 0, receipts.NOTHING
    for count, entry in receipts.debits(reversed(newest), plan_hash):  # noqa: B007  the last one counts
        hash_ = entry.hash
    return Head(sequence=count, hash=hash_)


def salt(folder: Path, plan_hash: str) -> bytes:
    """Of a campaign's receipts.

    Raises:
        StorageError: if the ledger's secret cannot be written.
        VerificationError: if it is damaged.
    """
    return receipts.salt_of(site_secret(folder), plan_hash)


def secret_path(folder: Path) -> Path:
    """Where the secret of the ledger's pseudonyms lies."""
    return folder / FOLDER / "secret"


def site_secret(folder: Path) -> bytes:
    """The secret of the ledger's pseudonyms, 32 bytes, made on first use.

    Raises:
        StorageError: if it cannot be written.
        VerificationError: if it is damaged.
    """
    place = secret_path(folder)
    if not place.exists():
        atomic.create(place, secrets.token_bytes(keys.SECRET_BYTES))
    secret = place.read_bytes()
    if len(secret) != keys.SECRET_BYTES:
        raise VerificationError(
            f"Expected {keys.SECRET_BYTES} bytes in {place}, got {len(secret)}: restore it from a backup"
        )
    return secret
