"""A site's statistics for a campaign that asks for them; they cannot be differenced against earlier ones.

A count before and after one patient came, withdrew or had a grade corrected would tell of that patient. So what a
characteristic was told to be stays as it is, whoever asks, until at least ``policy.minimum_cohort`` patients have
come or gone since. ``<site folder>/statistics.json`` has what was told, and keyed hashes of whom it was about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from client.data import withdrawn
from client.data.tables.sources import Sources
from client.files import atomic, lock
from client.ledger import ledger_file
from client.ledger.identifiers import spelling, tag
from client.site.site import Site
from common.errors import SiteStateError
from common.evaluation.inside import site_statistics
from common.evaluation.inside.site_statistics import Counted, SiteStatistics
from common.exam import Exam
from common.sections.section import Section
from common.settings import Settings

NAME = "statistics.json"


class Told(Section):
    """One characteristic as it was told last."""

    counted: Counted
    minimum: int
    """That held then."""
    patients: tuple[str, ...]
    """Tags of those who had an exam."""


class Kept(Section):
    """``statistics.json``."""

    told: Mapping[str, Told] = {}


def of(site: Site, settings: Settings) -> str:
    """Canonical JSON of :class:`common.evaluation.inside.site_statistics.SiteStatistics`; empty: the site tells none.

    Args:
        site: the site.
        settings: of the campaign, as the site approved it.

    Raises:
        DataError: if the tables cannot be used.
        SiteStateError: if what was told before cannot be read.
        StorageError: if it cannot be kept.
    """
    if not settings.campaign.statistics or not site.policy.permits("statistics"):
        return ""
    exams = withdrawn.without(site.folder, Sources.of(site).tables(settings)).exams
    key, minimum = ledger_file.site_secret(site.folder), site.policy.minimum_cohort
    tags = tuple(sorted({tag(key, "statistics", spelling(exam.patient_id)) for exam in exams}))
    asked = dict(_characteristics(exams, settings))
    with lock.locked(site.folder / f".{NAME}.lock"):
        before = _read(site.folder / NAME)
        told = dict(before.told)
        for name, values in asked.items():
            last = told.get(name)
            if last is None or last.minimum < minimum or len(set(tags) ^ set(last.patients)) >= minimum:
                counted = site_statistics.count(values, minimum=minimum)
                told[name] = Told(counted=counted, minimum=minimum, patients=tags)
        if (kept := Kept(told=told)) != before:
            atomic.write(site.folder / NAME, kept.model_dump_json().encode())
    counts = {name: told[name].counted for name in asked}
    shown = {name: counted for name, counted in counts.items() if counted.values or counted.others}
    return SiteStatistics(site=site.name, minimum_cohort=minimum, characteristics=shown).dump()


def _characteristics(
    exams: tuple[Exam, ...], settings: Settings
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Characteristic -> patient and value of each exam that has one."""
    for name in ("device", "joint", "diagnosis"):
        yield name, [(exam.patient_id, value) for exam in exams if (value := str(getattr(exam, name)))]
    yield "age", [(e.patient_id, site_statistics.decade(e.age)) for e in exams if e.age is not None]
    for name in settings.measurements:
        grades = [(exam.patient_id, exam.targets.get(name)) for exam in exams]
        yield name, [(patient, f"grade {grade}") for patient, grade in grades if grade is not None]


def _read(path: Path) -> Kept:
    try:
        return Kept.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Kept()
    except (OSError, ValidationError):
        raise SiteStateError(
            f"Expected what was told of the site's exams in {path}: put it back from a backup. Without it a new "
            f"count could be compared with an earlier one"
        ) from None
