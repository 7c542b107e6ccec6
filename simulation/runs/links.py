"""Whether machine or site tell what a study's networks are to learn, said by ``plan`` and before a simulation trains.

At a site the doctor of ``data check`` looks at its own table. Where each site has one machine only a study of all
sites can see it, and nobody outside a simulation can: counts of patients by machine and diagnosis stay at the sites.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.evaluation import confounding
from common.exam import MISSING
from common.settings import Settings
from simulation.runs.preflight import SiteExams


def warnings(sites: Sequence[SiteExams], settings: Settings) -> tuple[str, ...]:
    """A sentence for each measurement that machine or site goes with, over the exams of the sites that train."""
    known = [site for site in sites if site.trains and site.machines]
    machines = [machine for site in known for machine in site.machines]
    places = [site.name for site in known for _ in site.machines]
    patients = [f"{site.name}/{patient}" for site in known for patient in site.data.patient.tolist()]
    properties = {"the machine": machines}
    if not len(set(zip(machines, places, strict=True))) == len(set(machines)) == len(set(places)):
        properties["the site"] = places  # else the site is the machine
    return tuple(_said(properties, patients, _targets(known, settings)))


def _targets(sites: Sequence[SiteExams], settings: Settings) -> dict[str, list[str]]:
    return {
        name: [
            "" if value == MISSING else str(value)
            for site in sites
            for value in site.data.grades[name].tolist()
        ]
        for name in settings.measurements
    }


def _said(
    properties: dict[str, list[str]], patients: Sequence[str], targets: dict[str, list[str]]
) -> Iterator[str]:
    for target, values in targets.items():
        for name, given in properties.items():
            found = confounding.link(patients, given, values)
            if found is not None and found.notable:
                yield confounding.sentence(found, one=name, other=target)
