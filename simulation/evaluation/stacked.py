"""Stacked numbers: weights from what each fold's networks say of the fold's own patients, found from sites' sums.

The sums came in the round that scored the final weights, as from any hospital
(:func:`server.rounds.journal.stacking`). Held-out patients get the stack of all of them; where folds judge, a fold's
patients that of the other folds' sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float64

from common.ensemble.number_stack import in_units
from common.ensemble.stacked_regression import NormalSums, Stack, solve
from common.methods.stages import stacked
from common.networks.spec import NetworkSpec, without_fold
from common.settings import Settings
from server.rounds import journal
from simulation.cohorts.cohort import Cohort
from simulation.evaluation.blocks import numbers
from simulation.evaluation.scorer import Block, Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacking:
    """What is known for stacking one number.

    Attributes:
        number: its name.
        networks: names without their folds, in the order of the weights.
        by_fold: fold -> the sites' sums over its patients.
        sites: those that gave sums, and their exams.
        without: those that trained and gave none: their policy keeps them, or too few patients stand behind each.
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


def of(folder: Path, specs: Iterable[NetworkSpec], cohort: Cohort, settings: Settings) -> Stacking | None:
    """What a campaign's sites gave, as its journal has it; ``None`` where none did or the settings stack nothing.

    Args:
        folder: of the campaign's journal.
        specs: the campaign's networks.
        cohort: the sites.
        settings: of the campaign.
    """
    given = journal.stacking(folder, plan_hash=settings.plan_hash())
    by_fold: dict[int, NormalSums] = {}
    sites: dict[str, int] = {}
    for name, members in stacked(specs, settings).items():
        if name in given:
            by_fold[members[0].fold] = given[name].total
            for site, exams in given[name].sites.items():
                sites[site] = sites.get(site, 0) + exams
            number, networks = (
                members[0].target.measurement,
                tuple(without_fold(s.name, s.fold) for s in members),
            )
    if not by_fold:
        return None
    return Stacking(
        number=number,
        networks=networks,
        by_fold=by_fold,
        sites=sites,
        without=tuple(site.name for site in cohort.sites if site.trains and site.name not in sites),
    )


def _columns(specs: Iterable[NetworkSpec], name: str) -> list[str]:
    """The network, without its fold, of each column of the predictions of a number."""
    return [
        without_fold(spec.name, spec.fold)
        for spec in specs
        if spec.target.kind == "regression" and spec.target.measurement == name
    ]


def _shares(values: Float64[np.ndarray, "n k"], settings: Settings, name: str) -> Float64[np.ndarray, "n k"]:
    of_range = settings.numbers[name]
    return np.asarray((values - of_range.smallest) / (of_range.largest - of_range.smallest))


def applied(
    frame: pd.DataFrame, specs: Sequence[NetworkSpec], stacking: Stacking, settings: Settings
) -> pd.DataFrame:
    """Predictions with the stacked number in place of the mean.

    Args:
        frame: as :func:`simulation.evaluation.predict.predictions` gives it.
        specs: all trained networks, in the order of the predictions' columns.
        stacking: of the same networks.
        settings: of the run.
    """
    name, judged = stacking.number, settings.evaluate.design == "folds"
    folds = sorted(map(int, frame["fold"].unique())) if judged else [None]
    found = np.full(len(frame), np.nan)
    for fold in folds:
        rows = np.ones(len(frame), np.bool_) if fold is None else np.asarray(frame["fold"] == fold)
        columns = _columns([spec for spec in specs if fold is None or spec.fold == fold], name)
        values = frame.loc[rows, [f"number_{name}_{k}" for k in range(len(columns))]].to_numpy(np.float64)
        means = [
            values[:, [k for k, column in enumerate(columns) if column == network]].mean(axis=1)
            for network in stacking.networks
        ]
        stack = stacking.stack(settings, apart=fold)
        found[rows] = stack(_shares(np.stack(means, axis=1), settings, name))
    return frame.assign(**{f"number_{name}": in_units(found, settings.numbers[name])})


def _of_member(frame: pd.DataFrame, columns: Sequence[str], number: str, network: str) -> pd.DataFrame:
    """Predictions with the mean of one backbone's networks alone."""
    own = [f"number_{number}_{k}" for k, column in enumerate(columns) if column == network]
    return frame.assign(**{f"number_{number}": frame[own].mean(axis=1)})


def block(
    stacking: Stacking,
    specs: Sequence[NetworkSpec],
    scorer: Scorer,
    plain: pd.DataFrame,
    *,
    settings: Settings,
) -> Mapping[str, object]:
    """What ``metrics.json`` says of it: weights, where they come from, what the mean and each backbone are worth.

    Args:
        stacking: the sums.
        specs: all trained networks, in the order of the predictions' columns.
        scorer: of the run.
        plain: predictions of the sites that trained, before :func:`applied`.
        settings: of the run.
    """
    stack = stacking.stack(settings)
    of_range = settings.numbers[stacking.number]
    mean: Block = numbers.block(scorer, plain)
    judged = settings.evaluate.design == "folds"  # then a patient has answers of one fold's networks
    columns = _columns([spec for spec in specs if not judged or spec.fold == specs[0].fold], stacking.number)
    members = {
        network: numbers.block(scorer, _of_member(plain, columns, stacking.number, network))[stacking.number]
        for network in stacking.networks
    }
    return {
        "number": stacking.number,
        "weights": dict(zip(stacking.networks, map(float, stack.weights), strict=True)),
        "intercept": stack.intercept * (of_range.largest - of_range.smallest),
        "exams": sum(stacking.sites.values()),
        "sites": dict(stacking.sites),
        "without": list(stacking.without),
        "mean": mean.get(stacking.number),
        "members": members,
    }
