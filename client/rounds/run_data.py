"""The data that a run began with: a site holds its own against them in every round, and tells nobody.

A run that goes on over other grades, pictures, exams or patients would mix two trainings and still look complete.
What is kept is ``<site folder>/state/<plan hash>/<run>/data.json``: no names, only keyed hashes under the secret of
the ledger, an exam each. A second run of the same plan begins with the data that are there then. Patients who
withdraw leave a run at any time: that is no change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from client.data.site_store import site_store
from client.data.store import Store
from client.files import atomic
from client.ledger import ledger_file, ledger_patients
from client.ledger.identifiers import tag
from client.site.site import Site
from client.state import site_state
from common.errors import ChangedDataError, SiteStateError
from common.exam import MISSING
from common.sections.section import Section
from common.settings import Settings

NAMES = 5
"""Exams that are named in a message."""
CHANGES = {
    "grades": "with other grades",
    "pictures": "with other pictures or regions",
    "patient": "of another patient",
    "held_out": "held out then or now, not both",
    "fold": "in another fold",
}


class Exam(Section):
    """What is kept of an exam, all in hex."""

    patient: str
    withdrawal: str
    """The patient's tag in the list of those who withdrew."""
    grades: str
    pictures: str
    held_out: bool
    fold: int


class Data(Section):
    """What is kept of a site's data."""

    fingerprints: tuple[str, ...]
    """Of the stores, each with its rule of consensus, that are known to give these data: that of the beginning, then
    others that differ in nothing that counts."""
    exams: Mapping[str, Exam]
    """By the exam's tag."""


def check(site: Site, settings: Settings, *, plan_hash: str, run: str) -> None:
    """Whether the site's data are those that a run began with; the run's first request begins it.

    Args:
        site: the site.
        settings: of the campaign.
        plan_hash: of the campaign.
        run: that asks for a round; empty: it has no name, and nothing can be compared.

    Raises:
        ChangedDataError: if not: what changed is said in full, which stays here.
        SiteStateError: if what was kept cannot be read.
        StorageError: if it cannot be written.
        UpdateError: if the run's name is none.
    """
    if not run:
        return
    place = site_state.run_folder(site.folder, plan_hash=plan_hash, run=run) / "data.json"
    known = _read(place)
    now = compared(site, site_store(site, settings), known, key=ledger_file.site_secret(site.folder))
    if now is not known:
        atomic.write(place, now.model_dump_json().encode())


def compared(site: Site, store: Store, known: Data | None, *, key: bytes) -> Data:
    """The data as they are now, if they are those that are known; these again where there is nothing new to keep.

    Args:
        site: whose they are.
        store: of the site, as it is now.
        known: what a run began with; ``None``: it begins now.
        key: under which the data are hashed.

    Raises:
        ChangedDataError: if they are others.
    """
    fingerprint = f"{store.fingerprint}/{site.file.data.consensus}"
    if known is not None and fingerprint in known.fingerprints:
        return known
    names = {_tag(key, "exam", exam): str(exam) for exam in store.exams["exam_id"]}
    now = Data(fingerprints=(fingerprint,), exams=_exams(site, store, key))
    if known is None:
        return now
    gone = ledger_patients.read(site.folder, ledger_patients.WITHDRAWN)
    changes = _changes(known.exams, now.exams, names, withdrawn=frozenset(gone))
    if changes:
        raise ChangedDataError(
            f"The data of {site.name} in {site.data_folder} are not those that the run began with: "
            f"{'; '.join(changes)}. Put them back as they were and go on, or start a new run over the new ones"
        )
    return known.model_copy(update={"fingerprints": (*known.fingerprints, fingerprint)})


def _exams(site: Site, store: Store, key: bytes) -> dict[str, Exam]:
    exams, tensors, ledger_secret = store.exams, store.tensors, ledger_file.site_secret(site.folder)
    readings: dict[str, list[str]] = {}
    for exam, *reading in store.reader_grades.itertuples(index=False):
        readings.setdefault(str(exam), []).append(repr(reading))
    found = {}
    for row, (exam, patient) in enumerate(zip(exams["exam_id"], exams["patient_id"], strict=True)):
        grades = [int(values[row]) for values in tensors.grades.values()]
        pictures = hashlib.sha256()
        for values in tensors.images.values():
            pictures.update(values[row].contiguous().numpy().data)
        found[_tag(key, "exam", exam)] = Exam(
            patient=_tag(key, "patient", patient),
            withdrawal=ledger_patients.tag_of(ledger_secret, (), str(patient)),
            grades=_tag(key, "grades", (exam, grades, sorted(readings.get(str(exam), [])))),
            pictures=_tag(key, "pictures", (exam, pictures.hexdigest())),
            held_out=int(tensors.fold[row]) == MISSING,
            fold=int(tensors.fold[row]),
        )
    return found


def _tag(key: bytes, what: str, content: object) -> str:
    return tag(key, f"run data: {what}", content)


def _changes(
    before: Mapping[str, Exam],
    now: Mapping[str, Exam],
    names: Mapping[str, str],
    *,
    withdrawn: frozenset[str],
) -> list[str]:
    """What differs, a phrase each; nothing where only patients who withdrew are gone."""
    stay = {tag: exam for tag, exam in before.items() if exam.withdrawal not in withdrawn}
    known, found = ({exam.patient for exam in exams.values()} for exams in (stay, now))
    added = [names[tag] for tag in now if tag not in before]
    changes = [
        *_counted("patients", "added", len(found - known)),
        *_counted("patients", "removed", len(known - found)),
        *_counted("exams", "added", len(added), added),
        *_counted("exams", "removed", len(stay.keys() - now.keys())),
    ]
    for field, how in CHANGES.items():
        if field == "fold" and (changes or len(stay) < len(before)):
            break  # folds follow from the rest, and from patients who withdrew
        pairs = [(tag, exam, now[tag]) for tag, exam in stay.items() if tag in now]
        differ = [names[tag] for tag, one, other in pairs if getattr(one, field) != getattr(other, field)]
        changes += _counted("exams", how, len(differ), differ)
    return changes


def _counted(what: str, how: str, count: int, examples: Sequence[str] = ()) -> Iterator[str]:
    if count:
        some = (
            f" ({', '.join(sorted(examples)[:NAMES])}{', ...' if len(examples) > NAMES else ''})"
            if examples
            else ""
        )
        yield f"{count} {what if count > 1 else what.removesuffix('s')} {how}{some}"


def _read(place: Path) -> Data | None:
    try:
        return Data.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise SiteStateError(
            f"Expected what a run began with in {place}: put it back from a backup, or start a new run"
        ) from None
