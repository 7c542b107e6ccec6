"""Pseudonyms of patients, exams and readers, and new UIDs: HMAC-SHA256 with a key that never leaves the site.

The same key gives the same pseudonyms, so that a later import fits an earlier one; without it nobody can test a
guess. Who has key or link file can undo them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from client.data.tables.rows import read_rows, refuse
from client.ledger.identifiers import padded
from common.errors import DataError
from common.machine import atomic

KEY_BYTES = 32
LONGEST_SHIFT_DAYS = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Pseudonyms:
    """Gives pseudonyms.

    Attributes:
        key: 32 secret bytes.
        persons: id of a machine -> person, where the hospital's link table has it.
        digits: to which ids that are numbers are padded with zeros, see :func:`client.ledger.identifiers.padded`.
    """

    key: bytes
    persons: Mapping[str, str]
    digits: int = 0

    def patient(self, patient_id: str) -> str:
        """One pseudonym for all ids that the link table gives one person."""
        return "p" + self._hex("patient", self._person(patient_id))[:16]

    def exam(self, patient_id: str, parts: Sequence[str]) -> str:
        """The name of an exam: of the patient and of what tells it from the patient's others."""
        return "e" + self._hex("exam", self._person(patient_id), *parts)[:16]

    def reader(self, name: str) -> str:
        """A reader's name in the grades."""
        return "r" + self._hex("reader", name)[:8]

    def uid(self, uid: str) -> str:
        """A new UID for an old one, under the root of UUIDs (PS3.5 B.2); empty stays empty."""
        return f"2.25.{int(self._hex('uid', uid)[:32], 16)}" if uid else ""

    def shifted(self, day: date, patient_id: str) -> date:
        """A date moved back by 1 to 365 days, as many for each date of a patient."""
        number = int(self._hex("days", self._person(patient_id))[:8], 16)
        return day - timedelta(days=1 + number % LONGEST_SHIFT_DAYS)

    def _person(self, patient_id: str) -> str:
        """Tell a person of the link table from an ID that happens to be spelled the same."""
        patient_id = padded(patient_id, self.digits)
        person = self.persons.get(patient_id)
        return f"id:{patient_id}" if person is None else f"person:{person}"

    def _hex(self, purpose: str, *parts: str) -> str:
        text = "\0".join((purpose, *(f"{len(part)}:{part}" for part in parts)))
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()


def read_persons(path: Path, *, digits: int = 0) -> dict[str, str]:
    """The link table: columns ``patient_id, person``, one row per ID of a machine, padded to this many digits.

    Raises:
        DataError: if it cannot be read, a cell is empty, or an id stands for two persons.
    """
    persons: dict[str, str] = {}
    errors: list[str] = []
    for line, row in read_rows(path, ["patient_id", "person"]).rows:
        patient_id, person = padded(row["patient_id"], digits), row["person"]
        if not patient_id or not person:
            errors.append(f"  line {line}: expected a patient_id and a person")
        elif persons.setdefault(patient_id, person) != person:
            errors.append(f"  line {line}: its patient_id stands for another person in an earlier line")
    refuse(path, errors)
    return persons


def site_key(folder: Path) -> bytes:
    """The key in a private folder, made on first use, readable by its owner only.

    Raises:
        DataError: if it is damaged or others can read it: a new one would give everybody a new pseudonym.
    """
    path = folder / "key"
    if not path.exists():
        atomic.write(path, secrets.token_bytes(KEY_BYTES), mode=0o600)
    status = path.stat()
    if status.st_mode & 0o077:
        raise DataError(f"Expected {path} to be readable by its owner only: chmod 600 {path}")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise DataError(f"Expected {KEY_BYTES} bytes in {path}, got {len(key)}: restore it from a backup")
    return key
