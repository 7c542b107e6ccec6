"""What an archive has of what is wanted: studies, their series, their instances. Nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from client.data.pacs.reader import Reader, text
from client.data.pacs.wanted import COLUMNS, Key, Wanted

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
LONGEST_UID = 64
TOLD = (*COLUMNS.values(), "StudyDate")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """Studies that were found.

    Attributes:
        uids: of them.
        strange: answers that were not asked for, or whose UID is none; they are passed over.
        missing: keys of which there is no study.
    """

    uids: tuple[str, ...]
    strange: int
    missing: tuple[Key, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One picture, or whatever else a series holds."""

    study: str
    series: str
    uid: str

    @property
    def name(self) -> str:
        """Its path in the folder; of figures and dots, with none that leads out of it."""
        return f"{self.study}/{self.series}/{self.uid}.dcm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Instances that were found, sorted, and answers that were not asked for or whose UID is none."""

    each: tuple[Instance, ...]
    strange: int

    @property
    def studies(self) -> int:
        """How many studies they are of."""
        return len({instance.study for instance in self.each})

    @property
    def series(self) -> int:
        """How many series they are of."""
        return len({(instance.study, instance.series) for instance in self.each})


def find_studies(reader: Reader, wanted: Wanted, progress: Progress) -> Studies:
    """Search for studies, one key after the other.

    Args:
        reader: of the archive.
        wanted: what is looked for.
        progress: told of keys done, out of all.

    Raises:
        ConfigurationError: if the archive cannot be used so.
        ConnectionLostError: if it is lost.
    """
    uids: dict[str, None] = {}
    strange, missing = 0, []
    keys: Sequence[Key] = wanted.keys or ({},)
    for done, key in enumerate(keys, start=1):
        answers = [each for query in wanted.queries(key) for each in reader.studies(query)]
        told = [{keyword: text(each, keyword) for keyword in TOLD} for each in answers]
        fitting = [
            text(each, "StudyInstanceUID")
            for each, study in zip(answers, told, strict=True)
            if wanted.fits(key, study)
        ]
        good = [uid for uid in fitting if is_uid(uid)]
        strange += len(answers) - len(good)
        missing += [key] if key and not good else []
        uids |= dict.fromkeys(good)
        progress(done, len(keys))
    return Studies(uids=tuple(sorted(uids)), strange=strange, missing=tuple(missing))


def find_instances(reader: Reader, studies: Sequence[str], modality: str, progress: Progress) -> Instances:
    """List the instances of all series of a modality.

    Args:
        reader: of the archive.
        studies: their UIDs.
        modality: of the series.
        progress: told of studies done, out of all.

    Raises:
        ConfigurationError: if the archive cannot be used so.
        ConnectionLostError: if it is lost.
    """
    found: set[tuple[str, str, str]] = set()
    strange = 0
    for done, study in enumerate(studies, start=1):
        for each in reader.series(study, {"Modality": modality}):
            series = text(each, "SeriesInstanceUID")
            if text(each, "Modality") != modality or not is_uid(series):
                strange += 1
                continue
            uids = [text(instance, "SOPInstanceUID") for instance in reader.instances(study, series)]
            found |= {(study, series, uid) for uid in uids if is_uid(uid)}
            strange += sum(not is_uid(uid) for uid in uids)
        progress(done, len(studies))
    return Instances(
        each=tuple(Instance(study=study, series=series, uid=uid) for study, series, uid in sorted(found)),
        strange=strange,
    )


def is_uid(uid: str) -> bool:
    """Whether a text is a UID (PS3.5, 9.1), but for leading zeros, which machines write."""
    return len(uid) <= LONGEST_UID and UID.fullmatch(uid) is not None
