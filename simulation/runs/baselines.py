"""What a federation is held against: each site alone, and all sites' exams in one place."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.site_store import site_store
from client.ensemble import alone, evaluation
from client.site.site import Site
from common.machine import network_files
from common.sections.section import Section
from common.settings import Settings
from server.runs.run_folder import RunFolder
from simulation.cohorts import pooled
from simulation.cohorts.cohort import Cohort, CohortSite
from simulation.engine.progress import Display
from simulation.runs import preflight

CENTRALISED = "centralised"
ALONE = "alone:"
"""Before the name of the site in that of its system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way of training the method: the federation, or a baseline beside it.

    Attributes:
        name: ``federated``, ``alone:<site>`` or ``centralised``.
        folder: where its journal and networks lie.
        sites: the folders of the sites that train.
        settings: the run's, or for a baseline :func:`baseline_settings`.
    """

    name: str
    folder: Path
    sites: tuple[Path, ...]
    settings: Settings


def of(run: RunFolder, sites: Cohort, settings: Settings, display: Display) -> tuple[System, ...]:
    """Each site alone and all sites pooled: the same method, code, seeds, networks and number of steps per network.

    Where ``evaluate.baseline_models`` asks for fewer scoring models, the federation is cut down alike when they are
    compared (:func:`simulation.evaluation.metrics.metrics`).

    A pooled step sees a batch as large as all sites' batches of a federated step together: with one local step
    a round, federated averaging is exactly that. A site that alone could train nothing of a measurement is
    left out, which is said: untrained networks would make the federation look better than it is.
    """
    fewer = baseline_settings(settings)
    training = [site for site in sites.sites if site.trains]
    unable = preflight.unable(preflight.of_stores(sites, fewer), fewer)
    for name, reason in unable.items():
        display.line(f"Warning: {name} has no baseline of its own: alone it cannot train {reason}")
    folder = run.path / "baselines"
    by_itself = [
        System(
            name=f"{ALONE}{site.name}",
            folder=folder / f"alone-{site.name}",
            sites=(site.folder,),
            settings=fewer,
        )
        for site in training
        if site.name not in unable
    ]
    return *by_itself, centralised(folder / CENTRALISED, training, fewer)


def baseline_settings(settings: Settings) -> Settings:
    """The settings of a baseline: the run's, where asked for with fewer models, without privacy and secure sums.

    Of one site any rule of aggregation is the mean, and some would refuse. The rounds of all baselines are led from
    one process; what they ask of a site goes wherever the run's pieces of work go.
    """
    models = settings.rating.models or settings.rating.folds
    if settings.evaluate.baseline_models is not None:
        models = min(models, settings.evaluate.baseline_models)
    changes: dict[str, Section | None] = {
        "rating": settings.rating.model_copy(update={"models": models}),
        "federation": settings.federation.model_copy(update={"secure": None, "rule": "mean"}),
        "compute": settings.compute.model_copy(update={"engine": "in-process"}),
        "campaign": settings.campaign.model_copy(update={"evaluation": False, "cases": False}),
    }
    if settings.privacy is not None:
        open_heads = settings.privacy.model_copy(update={"mechanism": "none"})
        changes["privacy"] = open_heads if settings.method == "probe" else None
    return settings.model_copy(update=changes)


def centralised(folder: Path, training: Sequence[CohortSite], settings: Settings) -> System:
    """All sites' exams as one site's: a step's batch is as large as all sites' batches together."""
    batch_size = settings.training.batch_size * len(training)
    larger = settings.training.model_copy(update={"batch_size": batch_size})
    changes: dict[str, Section | None] = {"training": larger}
    if settings.privacy is not None:
        patients = settings.privacy.patients * len(training)
        changes["privacy"] = settings.privacy.model_copy(update={"patients": patients})
    return System(
        name=CENTRALISED,
        folder=folder,
        sites=(pooled.site(folder / "site", training, settings),),
        settings=settings.model_copy(update=changes),
    )


def keep_alone(beside: Sequence[System], federated: System) -> None:
    """Leave at each site what it trained alone, as ``synofed site alone`` does, and nothing of a former study."""
    trained = {
        folder: system for system in beside if system.name.startswith(ALONE) for folder in system.sites
    }
    plan_hash = federated.settings.plan_hash()
    for folder in federated.sites:
        shutil.rmtree(evaluation.folder(folder, plan_hash), ignore_errors=True)
        alone.forget(folder, plan_hash)
        if (system := trained.get(folder)) is not None:
            site = Site.open(folder)
            alone.keep(
                site,
                plan_hash,
                list(network_files.load_all(system.folder / "networks")),
                system.settings,
                fingerprint=site_store(site, federated.settings).fingerprint,
            )
