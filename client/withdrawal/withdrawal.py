"""A patient withdraws: refused from now on, data deleted, and a signed statement of what was done with them.

In this order, each step on disk before the next: the list of those who withdrew (from here on nothing is trained on
the patient), the ledger's entry, the deletion, the statement, and the patient's line in the ledger's table, without
which nobody can tell any more which commitment was theirs. Killed at any instant, the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.data import patient_data
from client.data.patient_data import Found
from client.ensemble import held_out
from client.files import atomic
from client.files.lock import locked
from client.ledger import ledger_file, ledger_patients
from client.log import chain as log
from client.log.audit import REPLY
from client.site import keys
from client.site.site import Site
from client.withdrawal.withdrawal_statement import CampaignOfPatient, Statement, text
from common import signed_json
from common.errors import DataError, VerificationError
from common.privacy.accounting import chain, spending
from common.privacy.accounting.spending import Book, PrivateRelease
from common.version import VERSION

FOLDER = "withdrawals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A withdrawal that is done.

    Attributes:
        statement: what is said about it.
        path: of the statement; the printable text lies beside it as ``.txt``.
        left: files of the data folder that are no tables of ours and seem to name the patient.
    """

    statement: Statement
    path: Path
    left: tuple[str, ...] = ()

    @property
    def advice(self) -> tuple[str, ...]:
        """What is left for people to do."""
        look = (
            f"Look yourself: {', '.join(self.left)} beside the manifest seem to name the patient, and are no tables "
            f"that can be read here."
        )
        printed = (
            f"To be printed: {self.path.with_suffix('.txt')}. Delete the originals of the import, and copies "
            f"elsewhere."
        )
        return (look, printed) if self.left else (printed,)


def withdraw(site: Site, patient: str) -> Withdrawal:
    """Take a patient out of everything that is still to come; the same call again finishes what was cut short.

    Args:
        site: the site.
        patient: the identifier in the manifest.

    Raises:
        DataError: if nobody of that name is or was there.
        StorageError: if something cannot be written or deleted.
        VerificationError: if the ledger was changed.
    """
    folder = site.folder
    with locked(folder / FOLDER / ".lock"):
        secret = ledger_file.site_secret(folder)
        tags = ledger_patients.read(folder, ledger_patients.WITHDRAWN)
        tag = ledger_patients.tag_of(secret, tags, patient)
        place = folder / FOLDER / f"{tag[:16]}.json"
        pending = place.with_suffix(".pending")
        left = patient_data.kept(pending)
        found = left or patient_data.find(site, patient)
        refused = tag in tags
        if not found.exams and not refused and not _booked(folder, secret, patient):
            raise _nobody(site)
        if refused and left is None and not found.exams and place.exists():
            return Withdrawal(statement=_read(place), path=place)
        patient_data.keep(pending, found)
        _refuse(folder, secret, patient)
        left_over = patient_data.delete(site, found)
        held_out.forget(folder, patient)
        statement = _statement(site, patient, found)
        atomic.write(place.with_suffix(".txt"), text(statement).encode())
        atomic.write(place, (statement.model_dump_json(indent=2) + "\n").encode())
        _erase(folder, secret, patient)
        pending.unlink()
        atomic.sync(pending.parent)
    return Withdrawal(statement=statement, path=place, left=left_over)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a withdrawal would do.

    Attributes:
        exams: that would be deleted.
        pictures: that would be deleted.
        campaigns: that the patient took part in, which cannot be taken back.
        epsilon: of all their private releases together.
        delta: that epsilon is at.
        unbounded: whether something left without differential privacy.
        withdrawn: whether the patient withdrew already.
    """

    exams: int
    pictures: int
    campaigns: tuple[CampaignOfPatient, ...]
    epsilon: float
    delta: float
    unbounded: bool
    withdrawn: bool


def prospect(site: Site, patient: str) -> Prospect:
    """What :func:`withdraw` would find, before anything is done.

    Raises:
        DataError: if nobody of that name is or was there.
        VerificationError: if the ledger was changed.
    """
    folder, delta = site.folder, site.policy.maximum_delta
    secret = ledger_file.site_secret(folder)
    found = patient_data.find(site, patient)
    withdrawn = ledger_patients.has_withdrawn(
        secret, ledger_patients.read(folder, ledger_patients.WITHDRAWN), patient
    )
    if not found.exams and not withdrawn and not _booked(folder, secret, patient):
        raise _nobody(site)
    book = Book.of(ledger_file.read(folder).entries)
    table = ledger_patients.patients(folder, book)
    name = ledger_patients.name_of(secret, table, patient)
    number = ledger_patients.numbers(table, book, [name]).get(name)
    history = book.history(number) if number is not None else spending.History()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Prospect(
        exams=len(found.exams),
        pictures=len(found.pictures),
        campaigns=tuple(_campaigns(folder, book, number, until=now, delta=delta))
        if number is not None
        else (),
        epsilon=history.epsilon(delta=delta),
        delta=delta,
        unbounded=history.unbounded,
        withdrawn=withdrawn,
    )


def _nobody(site: Site) -> DataError:
    return DataError(
        f"Expected a patient of {site.data_folder / site.file.data.manifest} or of the ledger, got a name that "
        f"neither knows: look it up in the link file of the import"
    )


def unfinished(folder: Path) -> int:
    """How many withdrawals were cut short and wait for their command to be given again."""
    return len(list((folder / FOLDER).glob("*.pending")))


def _booked(folder: Path, secret: bytes, patient: str) -> bool:
    table = ledger_patients.read(folder, ledger_patients.PATIENTS)
    return ledger_patients.name_of(secret, table, patient) in table


def _refuse(folder: Path, secret: bytes, patient: str) -> None:
    with ledger_file.opened(folder) as opened:
        table = ledger_patients.withdrawn(folder, opened.book)
        tag = ledger_patients.tag_of(secret, table, patient)
        if tag not in table:
            table[tag] = ledger_patients.new_salt()
            ledger_patients.write(folder, ledger_patients.WITHDRAWN, table)
        committed = ledger_patients.committed(tag, table[tag])
        if committed not in opened.book.withdrawn:
            patients = ledger_patients.patients(folder, opened.book)
            name = ledger_patients.name_of(secret, patients, patient)
            number = ledger_patients.numbers(patients, opened.book, [name]).get(name)
            facts: dict[str, object] = {"version": VERSION, "tag": committed, "patient": number, "new": []}
            opened.add(chain.WITHDRAWN, facts)


def _erase(folder: Path, secret: bytes, patient: str) -> None:
    with ledger_file.opened(folder) as opened:
        table = ledger_patients.patients(folder, opened.book)
        name = ledger_patients.name_of(secret, table, patient)
        if table.pop(name, None) is not None:
            ledger_patients.write(folder, ledger_patients.PATIENTS, table)


def _statement(site: Site, patient: str, found: Found) -> Statement:
    folder = site.folder
    read = ledger_file.read(folder)
    book = Book.of(read.entries)
    table = ledger_patients.withdrawn(folder, book)
    tag = ledger_patients.tag_of(ledger_file.site_secret(folder), table, patient)
    committed = ledger_patients.committed(tag, table[tag])
    number = book.withdrawn[committed]
    entry = next(one for one in read.entries if one.content.get("tag") == committed)
    delta = site.policy.maximum_delta
    history = book.history(number) if number is not None else spending.History()
    unsigned = Statement(
        site=site.name,
        patient=patient,
        withdrawn=str(entry.content["time"]),
        campaigns=tuple(_campaigns(folder, book, number, until=str(entry.content["time"]), delta=delta))
        if number is not None
        else (),
        epsilon=history.epsilon(delta=delta),
        delta=delta,
        unbounded=history.unbounded,
        deleted_exams=len(found.exams),
        deleted_pictures=len(found.pictures),
        ledger_entry=entry.sequence,
        ledger_head=entry.hash,
        version=VERSION,
        public_key=keys.public_key(folder),
    )
    signature = signed_json.sign(unsigned.payload(), keys.signing_key(folder))
    return unsigned.model_copy(update={"signature": signature})


def _campaigns(
    folder: Path, book: Book, number: int, *, until: str, delta: float
) -> Iterator[CampaignOfPatient]:
    booked = [one for one in book.releases if number in one.eligible]
    for plan_hash in dict.fromkeys(one.release.plan_hash for one in booked):
        mine = [one for one in booked if one.release.plan_hash == plan_hash]
        private = [one.release for one in mine if isinstance(one.release, PrivateRelease)]
        rounds = {release.server_round for release in private}
        bounded = len(private) == len(mine)
        if not bounded:
            since = min(one.time for one in mine if not isinstance(one.release, PrivateRelease))
            rounds |= set(_answered(folder, plan_hash, since=since, until=until))
        (history,) = spending.of_campaign(book, plan_hash, patient=number)
        yield CampaignOfPatient(
            campaign=mine[-1].release.campaign,
            plan_hash=plan_hash,
            rounds=tuple(sorted(rounds)),
            private_releases=len(private),
            epsilon=history.epsilon(delta=delta),
            unbounded=not bounded,
        )


def _answered(folder: Path, plan_hash: str, *, since: str, until: str) -> Iterator[int]:
    """The rounds of a campaign that the site answered in a time, as its log has them."""
    for entry in log.entries(folder / log.NAME):
        content = entry.content
        if content.get("event") == REPLY and content.get("plan_hash") == plan_hash:
            server_round, time = content.get("server_round"), str(content.get("time"))
            if isinstance(server_round, int) and since <= time <= until:
                yield server_round


def _read(place: Path) -> Statement:
    try:
        statement = Statement.model_validate(json.loads(place.read_bytes()))
    except ValueError:
        raise VerificationError(f"Expected a statement in {place}: restore it from a backup") from None
    statement.verify()
    return statement
