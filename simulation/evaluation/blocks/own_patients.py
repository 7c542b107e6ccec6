"""The ``own_patients`` of ``metrics.json``: what each site gains over training alone, on that site's patients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from common.evaluation import bootstrap
from common.evaluation.agreement import METRICS
from common.evaluation.bootstrap import Estimate
from common.evaluation.own_patients import ALONE, Compared, OwnPatients, Site, own_patients
from simulation.evaluation.scorer import Block, Patients, Scorer

FEDERATED = "federated"
PERSONAL = "personal"


def block(scorer: Scorer, systems: Mapping[str, Mapping[str, pd.DataFrame]]) -> Block:
    """Compare systems on each site's held-out patients (:mod:`common.evaluation.own_patients`).

    Args:
        scorer: of the run.
        systems: site -> system -> predictions, of which those of the site's own exams count: ``alone``, by what the
            site trained by itself; ``federated``; ``personal``, by what it made of the federation's networks. All
            have as many scoring models, and all sites the same systems.

    Returns:
        ``sites.<name>``: ``exams``, ``patients``, and for each score and metric each system's value, ``gain``
        (federated minus alone) and ``gain_<system>`` of any other, each with its interval; ``mean``: the same over
        the sites, with the number of ``sites``, of those ``losing``, and of those ``losing_clearly`` (beyond chance,
        by Holm's correction over the sites), again ``losing_<system>`` of any other than the federation.
    """
    own = {site: {name: _of_site(f, site) for name, f in frames.items()} for site, frames in systems.items()}
    names = tuple(next(iter(own.values()), {ALONE: None, FEDERATED: None}))
    patients = {site: Patients.of(frames[ALONE]) for site, frames in own.items()}
    sites: dict[str, Block] = {
        site: {"exams": len(frames[ALONE]), "patients": len(patients[site])} for site, frames in own.items()
    }
    mean: Block = {}
    tallies = {
        site: {name: scorer.tally(frame, patients[site]) for name, frame in frames.items()}
        for site, frames in own.items()
    }
    for score in scorer.grades():
        members = {
            site: Site(
                systems={name: tally[score] for name, tally in found.items()},
                draws=_draws(scorer, site, len(patients[site])),
            )
            for site, found in tallies.items()
        }
        results = {
            label: own_patients(members, metric, systems=names, seed=scorer.seed)
            for label, metric in METRICS.items()
        }
        mean[score] = {label: _mean(found) for label, found in results.items()}
        for site, shown in sites.items():
            shown[score] = {label: _compared(found.sites[site]) for label, found in results.items()}
    return {"sites": sites, "mean": mean}


def _draws(scorer: Scorer, site: str, patients: int) -> np.ndarray:
    """A site's draws are its own, whichever other sites there are."""
    generator = np.random.default_rng([scorer.seed, *site.encode()])
    return bootstrap.resamples(patients, replicates=scorer.settings.evaluate.bootstrap, generator=generator)


def _of_site(frame: pd.DataFrame, site: str) -> pd.DataFrame:
    return frame[frame["site"].astype(str) == site]


def _mean(found: OwnPatients) -> Block:
    counts: Block = {"sites": found.judged}
    for system, losing in found.losing.items():
        counts[f"losing{_suffix(system)}"] = losing
        counts[f"losing_clearly{_suffix(system)}"] = found.losing_clearly[system]
    return {**_compared(found.mean), **counts}


def _compared(found: Compared) -> Block:
    values = {name: _estimate(value) for name, value in found.systems.items()}
    return {**values, **{f"gain{_suffix(name)}": _estimate(gain) for name, gain in found.gains.items()}}


def _suffix(system: str) -> str:
    return "" if system == FEDERATED else f"_{system}"


def _estimate(estimate: Estimate) -> Block:
    return {"value": estimate.value, "ci95": [estimate.low, estimate.high]}
