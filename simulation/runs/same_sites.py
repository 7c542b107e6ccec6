"""The sites and the data that a run began with: one that goes on over others would mix two studies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from client.data.site_store import site_store
from client.rounds import run_data
from client.rounds.run_data import Data
from client.site.site import Site
from common.errors import CampaignError, ChangedDataError
from common.machine import atomic
from common.sections.section import Section
from common.settings import Settings
from simulation.cohorts.cohort import Cohort, CohortSite

NAME = "sites.json"
KEY = b"simulation"
"""No secret: whoever simulates owns all sites, and a cohort that was made again has other secrets, the same data."""


class _Member(Section):
    trains: bool
    data: Data


class _Sites(Section):
    sites: Mapping[str, _Member]


def noted(sites: Cohort, settings: Settings) -> bytes:
    """What :data:`NAME` in a run's folder holds from its beginning on; sites that are only tested on included."""
    return _content({site.name: _member(site, settings, None) for site in sites.sites})


def check(run: Path, sites: Cohort, settings: Settings) -> None:
    """Whether a run goes on over the sites and data that it began with.

    Raises:
        ChangedDataError: if not; it says all that changed, site by site.
        CampaignError: if it is not known.
    """
    known = _read(run)
    now = {site.name: site for site in sites.sites}
    wrong = [f"{name} is gone" for name in known if name not in now]
    wrong += [f"{name} is new" for name in now if name not in known]
    both = [site for name, site in now.items() if name in known]
    wrong += [
        f"{site.name} {'trains now and did not' if site.trains else 'does not train now and did'} then"
        for site in both
        if site.trains != known[site.name].trains
    ]
    found = {}
    for site in both:
        try:
            found[site.name] = _member(site, settings, known[site.name].data)
        except ChangedDataError as error:
            wrong.append(str(error))
    if wrong:
        lines = "".join(f"\n  {line}" for line in wrong)
        raise ChangedDataError(
            f"The run in {run} began with other sites or data than there are now; nothing was trained. Put them back "
            f"and go on, or start a new run without --resume:{lines}"
        )
    atomic.write(run / NAME, _content(found))


def _member(site: CohortSite, settings: Settings, known: Data | None) -> _Member:
    opened = Site.open(site.folder)
    data = run_data.compared(opened, site_store(opened, settings), known, key=KEY)
    return _Member(trains=site.trains, data=data)


def _content(sites: Mapping[str, _Member]) -> bytes:
    return _Sites(sites=sites).model_dump_json().encode()


def _read(run: Path) -> Mapping[str, _Member]:
    try:
        return _Sites.model_validate_json((run / NAME).read_bytes()).sites
    except (OSError, ValidationError):
        raise CampaignError(
            f"Expected in {run / NAME} which data the run began with: an earlier version did not note it, or the "
            f"file was changed. Start a new run without --resume"
        ) from None
