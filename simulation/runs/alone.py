"""A hospital trains a campaign's networks alone, as a simulation's baseline: same code, seeds, rounds and steps."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from client.data.site_store import site_store
from client.ensemble import alone
from client.site import training_device
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from common.errors import DataError, PolicyError
from common.machine import network_files
from common.settings import Settings
from server.campaign.events import Event
from simulation.cohorts import pooled
from simulation.cohorts.cohort import Cohort, CohortSite
from simulation.engine import engines
from simulation.engine.grid import Workers
from simulation.engine.progress import Display
from simulation.runs import preflight
from simulation.runs.baselines import baseline_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of it.

    Attributes:
        folder: of the networks.
        networks: their number.
        models: scoring models among them.
        seconds: that it took now; an interrupted one goes on where it stopped.
    """

    folder: Path
    networks: int
    models: int
    seconds: float


def train(site: Site, plan_hash: str, *, models: int | None, display: Display) -> Trained:
    """Train a campaign's networks on a site's own exams, in a copy of the site that no centre knows.

    Interrupted, the same call goes on where it stopped. Nothing is booked or logged: nothing leaves.

    Args:
        site: the site.
        plan_hash: of a campaign that its people approved.
        models: scoring models, at most; ``None``: as many as the campaign has.
        display: shows progress.

    Raises:
        PolicyError: if the campaign is not approved.
        DataError: if the site alone has no example for one of the networks.
        SynofedError: as :func:`server.campaign.campaign.run`.
    """
    started = time.monotonic()
    campaign = decisions.folder(site.folder, plan_hash)
    state = decisions.read(campaign)
    if state is None or state.status is not Status.APPROVED:
        raise PolicyError(
            f"Expected a campaign that this site approved, {plan_hash[:12]} is {state.status if state else 'unknown'}"
        )
    settings = decisions.plan(site, plan_hash, name=state.names[-1])
    fewer = _settings(site, settings, models)
    this = Cohort(folder=site.folder, sites=(CohortSite(name=site.name, folder=site.folder, trains=True),))
    for reason in preflight.unable(preflight.of_stores(this, fewer), fewer).values():
        raise DataError(f"Expected exams of this site for every network, alone it cannot train {reason}")
    fingerprint = site_store(site, settings).fingerprint
    with alone.training(site.folder, plan_hash):
        working = campaign / decisions.ALONE_TRAINING
        _begin(working, f"{fingerprint}\n{fewer.plan_hash()}\n")
        copy = pooled.site(working / "site", this.sites, fewer, name=site.name, code=site.policy.code)
        compute = fewer.compute

        def observe(event: Event) -> None:
            display.event("alone", event)

        with Workers(compute.devices, threads=compute.threads, stacked=compute.stacked) as workers:
            engines.run_campaign(fewer, (copy,), folder=working, observer=observe, workers=workers)
        networks = list(network_files.load_all(working / "networks"))
        alone.keep(site, plan_hash, networks, fewer, fingerprint=fingerprint)
        shutil.rmtree(working)
    return Trained(
        folder=alone.folder(site.folder, plan_hash),
        networks=len(networks),
        models=alone.models_of(networks),
        seconds=time.monotonic() - started,
    )


def _settings(site: Site, settings: Settings, models: int | None) -> Settings:
    """The campaign's, for one site: its own device and threads, and perhaps fewer scoring models."""
    compute = site.file.compute
    threads = compute.threads or os.cpu_count() or 1
    device = training_device.prepared(site, device=compute.device, threads=threads)
    chosen = {"engine": "in-process", "devices": (str(device),), "threads": threads}
    asked = settings.model_copy(
        update={
            "evaluate": settings.evaluate.model_copy(update={"baseline_models": models}),
            "compute": settings.compute.model_copy(update=chosen),
        }
    )
    return baseline_settings(asked)


def _begin(working: Path, origin: str) -> None:
    """Go on with what was trained so far, if it was of the same exams and settings; else begin anew."""
    path = working / "origin.txt"
    if not path.exists() or path.read_text(encoding="utf-8") != origin:
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(mode=0o700, parents=True)
        path.write_text(origin, encoding="utf-8")
