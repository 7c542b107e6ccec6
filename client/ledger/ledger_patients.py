"""Who the patients of the ledger are: two tables beside it, which only the site can read.

``ledger/patients.json`` maps each patient's pseudonym to the salt of the commitment that stands in the ledger;
``ledger/withdrawn.json`` does so for the tags of patients who withdrew. Pseudonyms and tags are HMACs of the
patient's identifier under ``ledger/secret``. A line can be erased here and the ledger stays whole; then nobody can
tell any more whose its commitment was.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from client.files import atomic
from client.ledger import ledger_file
from client.ledger.identifiers import spelling
from common.errors import VerificationError
from common.privacy.accounting.chain import commitment
from common.privacy.accounting.spending import Book

PATIENTS = "patients.json"
WITHDRAWN = "withdrawn.json"
SALT_BYTES = 32
Table = Mapping[str, str]
"""Pseudonym or tag -> salt, both in hex."""


def pseudonym(secret: bytes, patient: str) -> str:
    """Of a patient in the ledger, in hex; :func:`name_of` says which spelling it is of."""
    return hmac.new(secret, b"patient\n" + patient.encode(), hashlib.sha256).hexdigest()


def tag(secret: bytes, patient: str) -> str:
    """Of a patient in the list of those who withdrew, in hex."""
    return hmac.new(secret, b"withdrawn\n" + patient.encode(), hashlib.sha256).hexdigest()


def name_of(secret: bytes, table: Table, patient: str) -> str:
    """The pseudonym under which the ledger has a patient, or will have.

    It is of the identifier without case, blanks and leading zeros, so that nobody begins anew under another
    spelling; that of the identifier as it stands counts where an older version entered it.
    """
    as_it_stands = pseudonym(secret, patient)
    return as_it_stands if as_it_stands in table else pseudonym(secret, spelling(patient))


def tag_of(secret: bytes, tags: Collection[str], patient: str) -> str:
    """The tag under which a patient stands in the list of those who withdrew, or will; as :func:`name_of`."""
    as_it_stands = tag(secret, patient)
    return as_it_stands if as_it_stands in tags else tag(secret, spelling(patient))


def has_withdrawn(secret: bytes, tags: Collection[str], patient: str) -> bool:
    """Whether a patient stands in the list of those who withdrew, in whatever spelling."""
    return tag_of(secret, tags, patient) in tags


def committed(name: str, salt: str) -> str:
    """The commitment of a line of a table."""
    return commitment(bytes.fromhex(salt), bytes.fromhex(name))


def new_salt() -> str:
    """A salt for a line of a table, in hex."""
    return secrets.token_hex(SALT_BYTES)


def patients(folder: Path, book: Book) -> dict[str, str]:
    """The table of patients, held against the ledger.

    Raises:
        VerificationError: if a patient of the ledger is missing, who would otherwise begin anew with nothing spent.
    """
    table = read(folder, PATIENTS)
    erased = {book.commitments[number] for number in book.withdrawn.values() if number is not None}
    _check_whole(folder, PATIENTS, table, set(book.commitments) - erased)
    return table


def withdrawn(folder: Path, book: Book) -> dict[str, str]:
    """The list of those who withdrew, held against the ledger.

    Raises:
        VerificationError: if one of the ledger is missing.
    """
    table = read(folder, WITHDRAWN)
    _check_whole(folder, WITHDRAWN, table, set(book.withdrawn))
    return table


def numbers(table: Table, book: Book, names: Iterable[str]) -> dict[str, int]:
    """The numbers of those pseudonyms that the ledger knows."""
    known = {commitment: number for number, commitment in enumerate(book.commitments)}
    found = {name: known.get(committed(name, table[name])) for name in names if name in table}
    return {name: number for name, number in found.items() if number is not None}


def read(folder: Path, name: str) -> dict[str, str]:
    """A table; empty where there is none.

    Raises:
        VerificationError: if it is damaged.
    """
    place = folder / ledger_file.FOLDER / name
    try:
        content = json.loads(place.read_bytes())
        table = {str(key): str(salt) for key, salt in content.items()}
        for key, salt in table.items():
            bytes.fromhex(key + salt)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        raise VerificationError(f"Expected the table {place}: restore it from a backup") from None
    return table


def write(folder: Path, name: str, table: Table) -> None:
    """Write a table, sorted, so that its order says nothing of when a patient came.

    Raises:
        StorageError: if it cannot be written.
    """
    text = json.dumps(dict(sorted(table.items())), indent=0)
    atomic.write(folder / ledger_file.FOLDER / name, text.encode())


def _check_whole(folder: Path, name: str, table: Table, expected: set[str]) -> None:
    missing = expected - {committed(key, salt) for key, salt in table.items()}
    if missing:
        raise VerificationError(
            f"Expected all patients of the ledger in {folder / ledger_file.FOLDER / name}, {len(missing)} are "
            f"missing: restore it from a backup; nobody begins anew"
        )
