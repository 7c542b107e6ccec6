"""Stacked numbers: weights from what each fold's networks say of the fold's own patients, found from sites' sums.

Each site adds up its own out-of-fold answers (:class:`common.ensemble.stacked_regression.NormalSums`), nothing else
of them is used, and a site with fewer patients than its policy's minimum cohort gives none. In this version the sums
are taken by the simulation, after training: no message of a campaign carries them.

Held-out patients get the stack of all sums; where folds judge, a fold's patients that of the other folds' sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64

from client.data.site_store import site_store
from client.site.site import Site
from common.ensemble.committee import Committee
from common.ensemble.stacked_regression import NormalSums, Stack, solve
from common.settings import Settings
from simulation.cohorts.cohort import Cohort, CohortSite
from simulation.evaluation.blocks import numbers
from simulation.evaluation.predict import without_fold
from simulation.evaluation.scorer import Block, Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacking:
    """What is known for stacking one number.

    Attributes:
        number: its name.
        networks: names without their folds, in the order of the weights.
        by_fold: fold -> the sites' sums over its patients.
        sites: those that gave sums, and their exams.
        without: those with too few patients.
    """

    number: str
    networks: tuple[str, ...]
    by_fold: Mapping[int, NormalSums]
    sites: Mapping[str, int] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def stack(self, settings: Settings, *, apart: int | None = None) -> Stack:
        """The weights from all folds' sums, but those of one."""
        total = NormalSums.none(len(self.networks))
        for fold, sums in self.by_fold.items():
            total = total if fold == apart else total + sums
        return solve(total, ridge=settings.svdh.ridge)


def of(committee: Committee, cohort: Cohort) -> Stacking | None:
    """The sums of a cohort's training sites; ``None`` where the settings stack nothing.

    Args:
        committee: of all trained networks.
        cohort: the sites.
    """
    settings = committee.settings
    if settings.method != "svdh" or settings.svdh.stacking != "regression":
        return None
    name = settings.svdh.number
    networks = tuple(dict.fromkeys(_columns(committee, name)))
    by_fold: dict[int, NormalSums] = {}
    sites, without = {}, []
    for site in (site for site in cohort.sites if site.trains):
        found = _site(committee, site, name)
        if found is None:
            without.append(site.name)
            continue
        sites[site.name] = sum(sums.exams for sums in found.values())
        for fold, sums in found.items():
            by_fold[fold] = by_fold[fold] + sums if fold in by_fold else sums
    return Stacking(number=name, networks=networks, by_fold=by_fold, sites=sites, without=tuple(without))


def _site(committee: Committee, site: CohortSite, name: str) -> dict[int, NormalSums] | None:
    """Fold -> the site's sums; ``None`` where too few patients stand behind them."""
    settings, opened = committee.settings, Site.open(site.folder)
    data = site_store(opened, settings).tensors
    truth = data.numbers[name]
    known = (data.fold >= 0) & ~truth.isnan()
    if len(data.patient[known].unique()) < opened.policy.minimum_cohort:
        return None
    found = {}
    for fold in sorted({spec.fold for spec in committee.specs}):
        exams = torch.nonzero(known & (data.fold == fold)).flatten()
        asked = committee.of_fold(fold)
        answers = _shares(asked.score(data.images, exams).numbers[name], settings, name)
        found[fold] = NormalSums.of(answers, truth[exams].double().numpy())
    return found


def _columns(committee: Committee, name: str) -> list[str]:
    """The network, without its fold, of each column of a committee's numbers."""
    return [
        without_fold(spec.name, spec.fold)
        for spec in committee.specs
        if spec.target.kind == "regression" and spec.target.measurement == name
    ]


def _shares(values: Float64[np.ndarray, "n k"], settings: Settings, name: str) -> Float64[np.ndarray, "n k"]:
    of_range = settings.numbers[name]
    return np.asarray((values - of_range.smallest) / (of_range.largest - of_range.smallest))


def applied(frame: pd.DataFrame, committee: Committee, stacking: Stacking) -> pd.DataFrame:
    """Predictions with the stacked number in place of the mean.

    Args:
        frame: as :func:`simulation.evaluation.predict.predictions` gives it.
        committee: of all trained networks.
        stacking: of the same networks.
    """
    settings, name = committee.settings, stacking.number
    judged = settings.evaluate.design == "folds"
    folds = sorted(stacking.by_fold) if judged else [None]
    found = np.full(len(frame), np.nan)
    for fold in folds:
        asked = committee if fold is None else committee.of_fold(fold)
        rows = np.ones(len(frame), np.bool_) if fold is None else np.asarray(frame["fold"] == fold)
        columns = _columns(asked, name)
        values = frame.loc[rows, [f"number_{name}_{k}" for k in range(len(columns))]].to_numpy(np.float64)
        means = [
            values[:, [k for k, column in enumerate(columns) if column == network]].mean(axis=1)
            for network in stacking.networks
        ]
        stack = stacking.stack(settings, apart=fold)
        found[rows] = stack(_shares(np.stack(means, axis=1), settings, name))
    of_range = settings.numbers[name]
    return frame.assign(
        **{f"number_{name}": of_range.smallest + found * (of_range.largest - of_range.smallest)}
    )


def block(
    stacking: Stacking, scorer: Scorer, plain: pd.DataFrame, *, settings: Settings
) -> Mapping[str, object]:
    """What ``metrics.json`` says of it: the weights, where they come from, and what the plain mean is worth.

    Args:
        stacking: the sums.
        scorer: of the run.
        plain: predictions of the sites that trained, before :func:`applied`.
        settings: of the run.
    """
    stack = stacking.stack(settings)
    of_range = settings.numbers[stacking.number]
    mean: Block = numbers.block(scorer, plain)
    return {
        "number": stacking.number,
        "weights": dict(zip(stacking.networks, map(float, stack.weights), strict=True)),
        "intercept": stack.intercept * (of_range.largest - of_range.smallest),
        "exams": sum(stacking.sites.values()),
        "sites": dict(stacking.sites),
        "without": list(stacking.without),
        "sums_by": "simulation",
        "mean": mean.get(stacking.number),
    }
