"""The ``own_patients`` of ``metrics.json``: each site alone against the federation, on that site's patients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from common.evaluation import bootstrap
from common.evaluation.bootstrap import Estimate
from common.evaluation.own_patients import Compared, OwnPatients, Site, own_patients
from simulation.evaluation.scorer import METRICS, Block, Patients, Scorer


def block(scorer: Scorer, alone: Mapping[str, pd.DataFrame], federated: pd.DataFrame) -> Block:
    """Compare systems on each site's held-out patients (:mod:`common.evaluation.own_patients`).

    Args:
        scorer: of the run.
        alone: site -> predictions of the system that it trained alone; those of its own exams count.
        federated: predictions of the federation, with as many scoring models as the sites' own systems.

    Returns:
        ``sites.<name>``: ``exams``, ``patients``, and for each score and metric ``alone``, ``federated`` and ``gain``
        (federated minus alone), each with its interval; ``mean``: the same over the sites, with the number of
        ``sites``, of those ``losing``, and of those ``losing_clearly`` (an interval below zero).
    """
    systems = {
        name: {"alone": _of_site(frame, name), "federated": _of_site(federated, name)}
        for name, frame in alone.items()
    }
    patients = {name: Patients.of(frames["federated"]) for name, frames in systems.items()}
    sites: dict[str, Block] = {
        name: {"exams": len(frames["federated"]), "patients": len(patients[name])}
        for name, frames in systems.items()
    }
    mean: Block = {}
    tallies = {
        name: {system: scorer.tally(frame, patients[name]) for system, frame in frames.items()}
        for name, frames in systems.items()
    }
    for score in scorer.grades():
        members = {
            name: Site(
                alone=found["alone"][score],
                federated=found["federated"][score],
                draws=_draws(scorer, name, len(patients[name])),
            )
            for name, found in tallies.items()
        }
        results = {label: own_patients(members, metric) for label, metric in METRICS.items()}
        mean[score] = {label: _mean(found) for label, found in results.items()}
        for name, shown in sites.items():
            shown[score] = {label: _compared(found.sites[name]) for label, found in results.items()}
    return {"sites": sites, "mean": mean}


def _draws(scorer: Scorer, site: str, patients: int) -> np.ndarray:
    """A site's draws are its own, whichever other sites there are."""
    generator = np.random.default_rng([scorer.seed, *site.encode()])
    return bootstrap.resamples(patients, replicates=scorer.settings.evaluate.bootstrap, generator=generator)


def _of_site(frame: pd.DataFrame, site: str) -> pd.DataFrame:
    return frame[frame["site"].astype(str) == site]


def _mean(found: OwnPatients) -> Block:
    counts: Block = {
        "sites": found.judged,
        "losing": found.losing,
        "losing_clearly": found.losing_clearly,
    }
    return {**_compared(found.mean), **counts}


def _compared(found: Compared) -> Block:
    return {
        "alone": _estimate(found.alone),
        "federated": _estimate(found.federated),
        "gain": _estimate(found.gain),
    }


def _estimate(estimate: Estimate) -> Block:
    return {"value": estimate.value, "ci95": [estimate.low, estimate.high]}
