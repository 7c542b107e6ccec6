"""What each site of a study makes of the federation's networks, by the same code as a hospital, beside the run."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch

from client.ensemble import personal
from client.site.site import Site
from common.machine.network_files import TrainedNetwork
from common.settings import Settings
from simulation.cohorts.cohort import Cohort, CohortSite
from simulation.engine import interruption
from simulation.engine.places import Places
from simulation.evaluation.ensembles import Ensemble
from simulation.evaluation.predict import predictions

FOLDER = "personal"
T = TypeVar("T")
R = TypeVar("R")


def make(
    run: Path,
    ensemble: Sequence[TrainedNetwork],
    sites: Cohort,
    settings: Settings,
    *,
    run_name: str,
    devices: Sequence[str],
    bar: Callable[[int, int], None],
) -> Mapping[str, object]:
    """Make every training site's own networks in ``<run>/personal/<site>``; those that are there already are kept.

    Args:
        run: the run's folder.
        ensemble: all networks of the federation.
        sites: of the study.
        settings: the configuration; without ``personal`` what an earlier evaluation made is removed.
        run_name: names what the sites kept of this run.
        devices: single networks train on them at once.
        bar: shows how far it is.

    Returns:
        Site -> measurement -> what was chosen, and how each candidate did.
    """
    if settings.personal is None:
        shutil.rmtree(run / FOLDER, ignore_errors=True)
        return {}
    training = [site for site in sites.sites if site.trains]
    progress = _Together(bar, len(training))
    # few sites at once: each holds all its candidates
    with interruption.threads(len(devices)) as pool, interruption.threads(len(devices)) as waiting:

        def each(work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
            def limited(item: T) -> R:
                torch.set_num_threads(settings.compute.threads)  # each thread has its own number
                return work(item)

            return pool.map(limited, items)

        def one(site: CohortSite, device: str) -> object:
            return personal.kept(
                run / FOLDER / site.name,
                ensemble,
                Site.open(site.folder),
                settings,
                run=run_name,
                device=torch.device(device),
                each=each,
                progress=progress.of(site.name),
            ).get("choices")

        found = list(waiting.map(one, training, itertools.cycle(devices)))
    return dict(zip((site.name for site in training), found, strict=True))


def predicted(run: Path, sites: Cohort, settings: Settings, *, models: int, places: Places) -> pd.DataFrame:
    """What each training site's own networks say of its held-out exams, as :func:`predictions` has it.

    Args:
        run: the run's folder.
        sites: of the study.
        settings: the configuration.
        models: scoring models that are asked, the first ones.
        places: where.
    """
    frames = []
    for site in (site for site in sites.sites if site.trains):
        own = Ensemble(folder=run / FOLDER / site.name / "networks", settings=settings, models=models)
        frames.append(predictions(own, replace(sites, sites=(site,)), places))
    return pd.concat(frames, ignore_index=True)


def temperatures(choices: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """Site -> measurement -> temperature of its own networks, of what :func:`make` gave."""
    return {site: personal.temperatures({"choices": found}) for site, found in choices.items()}


class _Together:
    """One bar for the work of all sites."""

    def __init__(self, bar: Callable[[int, int], None], sites: int) -> None:
        self._bar = bar
        self._sites = sites
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, site: str) -> Callable[[int, int], None]:
        def told(done: int, total: int) -> None:
            with self._lock:
                self._done[site] = done
                self._bar(sum(self._done.values()), self._sites * total)

        return told
