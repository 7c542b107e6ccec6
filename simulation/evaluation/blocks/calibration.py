"""The ``calibration`` of ``metrics.json``: of each binary task the ROC curve, and how far its probabilities hold.

A task is a measurement and a cut, "is the grade above it?". Three sets of exams, each read in its own way:

* ``validation``: what the sites told of validation patients in the round that was selected, as histograms that are
  added up over sites and over the task's networks. Each network is asked by itself, about its own fold; the reference
  is the sites' readers.
* ``federated``: held-out patients of the sites that trained, by the mean probability of the task's networks.
* ``centralised``, ``personal``: the same exams by the ensemble of the pooled data, and by each site's own networks;
  ``personal_tempered``: by these at the temperatures that their sites gave them, where any did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from common.ensemble import temperature
from common.ensemble.trained import TrainedNetwork
from common.evaluation import calibration, roc
from common.evaluation.histograms import ScoreHistograms
from common.exam import MISSING
from simulation.evaluation.scorer import Block, Patients, Scorer, interval, networks_of_task

DIGITS = 5
"""To which curves are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What the sites told of one task.

    Attributes:
        networks: that answer it.
        histograms: of all of them together.
    """

    networks: int
    histograms: ScoreHistograms


Told = Mapping[tuple[str, int], Validation]
"""Measurement and cut -> what the sites told of it."""


def told(networks: Iterable[TrainedNetwork], histograms: Mapping[str, ScoreHistograms]) -> Told:
    """The histograms of each task; those of networks that tell more than two grades apart are no probabilities.

    Args:
        networks: the ensemble.
        histograms: by network, as :func:`server.rounds.journal.validation` has them.
    """
    found: dict[tuple[str, int], Validation] = {}
    for network in networks:
        target, counted = network.spec.target, histograms.get(network.spec.name)
        if not network.spec.scoring or target.kind != "binary" or counted is None:
            continue
        assert target.threshold is not None, "of a binary network"
        task = target.measurement, target.threshold
        before = found.get(task, Validation(networks=0, histograms=ScoreHistograms.empty()))
        found[task] = Validation(networks=before.networks + 1, histograms=before.histograms + counted)
    return found


def tempered(frame: pd.DataFrame, temperatures: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Predictions with each site's binary networks at its temperatures.

    Args:
        frame: predictions, each site's by its own networks.
        temperatures: site -> measurement -> temperature.
    """
    result = frame.copy()
    sites = frame["site"].astype(str)
    for column in (str(c) for c in frame if str(c).startswith("p:") and ":" not in str(c)[2:]):
        for site, of_site in temperatures.items():
            named = set(column.removeprefix("p:").split("/")) & set(of_site)
            for measurement in named:
                p = frame.loc[sites == site, column].to_numpy(dtype=np.float64)
                both = temperature.tempered(np.stack([1 - p, p], axis=1), of_site[measurement])
                result.loc[sites == site, column] = both[:, 1].astype(frame[column].dtype)
    return result


def block(scorer: Scorer, systems: Mapping[str, pd.DataFrame], validation: Told) -> Block:
    """Measurement -> ``gt<cut>`` -> set of exams -> what it shows; tasks that no network answers are left out.

    Args:
        scorer: of the run.
        systems: by name, predictions of the held-out exams of the sites that trained.
        validation: what the sites told.

    Returns:
        Of each set ``networks``, ``exams``, ``auc``, ``ece``, ``brier``, ``roc`` (``[1 - specificity, sensitivity]``)
        and ``reliability`` (:class:`common.evaluation.calibration.Group`). Held-out figures have their interval by
        bootstrap over patients, and ``ece_by_chance``, what perfect probabilities would have. ``validation`` counts
        an exam once for each network that was asked, so it has no intervals.
    """
    result: Block = {}
    for name, grades in scorer.grades().items():
        tasks: Block = {}
        for cut in range(grades - 1):
            sets = {system: _held_out(scorer, frame, name, cut) for system, frame in systems.items()}
            found = {system: shown for system, shown in sets.items() if shown}
            if (name, cut) in validation:
                found = {"validation": _validation(validation[name, cut]), **found}
            if found:
                tasks[f"gt{cut}"] = found
        if tasks:
            result[name] = tasks
    return result


def _validation(told: Validation) -> Block:
    scores, labels, counts = told.histograms.binned()
    weights = counts[None]
    return {
        "networks": told.networks,
        "exams": int(counts.sum()),
        "auc": {"value": told.histograms.auc()},
        "ece": {"value": float(calibration.weighted_ece(scores, labels, weights)[0])},
        "brier": {"value": float(calibration.weighted_brier(scores, labels, weights)[0])},
        **_curves(scores, labels, counts),
    }


def _held_out(scorer: Scorer, frame: pd.DataFrame, name: str, cut: int) -> Block:
    asked = networks_of_task(frame, name, cut)
    reference = scorer.answers(frame, scorer.source)[name]
    graded = reference != MISSING
    if not asked.shape[1] or not graded.any():
        return {}
    patients = Patients.of(frame)
    scores = asked[graded].to_numpy(dtype=np.float64).mean(axis=1).clip(0, 1)
    labels = reference[graded] > cut
    every = np.ones((1, len(scores)), dtype=np.int64)
    weights = np.concatenate([every, scorer.weights(patients)[:, patients.number(frame)[graded]]])
    measures = {"auc": roc.weighted_auc, "ece": calibration.weighted_ece, "brier": calibration.weighted_brier}
    drawn = {label: measure(scores, labels, weights) for label, measure in measures.items()}
    chance = calibration.by_chance(
        scores, draws=scorer.settings.evaluate.bootstrap, generator=np.random.default_rng(scorer.seed)
    )
    return {
        "networks": asked.shape[1],
        "exams": len(scores),
        **{label: interval(float(values[0]), values[1:]) for label, values in drawn.items()},
        "ece_by_chance": chance,
        **_curves(scores, labels, None),
    }


def _curves(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray | None) -> Block:
    groups = calibration.reliability(scores, labels, counts)
    return {
        "roc": [axis.round(DIGITS).tolist() for axis in roc.curve(scores, labels, counts)],
        "reliability": [
            {key: round(value, DIGITS) for key, value in asdict(group).items()} for group in groups
        ],
    }
