"""An ensemble as its sites judged it: what their tables say by site, by machine and together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from common.evaluation import site_tables
from common.evaluation.agreement import Values, accuracy, balanced_accuracy, kappa
from common.evaluation.bootstrap import Estimate
from common.evaluation.site_tables import SiteTables, Table
from server.report.content import Json
from server.rounds import site_results

METRICS: Mapping[str, Callable[[ArrayLike], Values]] = {
    "accuracy": accuracy,
    "kappa_linear": partial(kappa, weights="linear"),
    "kappa_quadratic": partial(kappa, weights="quadratic"),
    "balanced_accuracy": balanced_accuracy,
}


def read(run: Path) -> Json:
    """What sites told of a run's ensemble; empty where none was asked.

    Raises:
        DataError: if it cannot be read.
    """
    found, without = site_results.tables(run), site_results.without(run)
    return block(found, without) if found or without else {}


def block(found: Mapping[str, SiteTables], without: Mapping[str, str]) -> Json:
    """As JSON's types; ``None`` for what cannot be computed.

    Args:
        found: site -> its tables.
        without: site -> why it gave none.

    Returns:
        ``pooled``, ``sites`` and ``devices``, each score -> ``exams``, ``patients``, ``contested`` (a share),
        ``confusion``, ``auc`` (of each cut, where all sites tell their scores) and metrics with ``value`` and
        ``ci95``; ``suppressed``: site -> tables kept back; ``minimum_cohort``: site -> patients behind each table,
        at least; ``without``.
    """
    every = [(site, table) for site, sent in found.items() for table in sent.tables]
    devices = sorted({table.device for _, table in every})
    return {
        "pooled": _scores(table for _, table in every),
        "sites": {site: _scores(found[site].tables) for site in found},
        "devices": {d: _scores(table for _, table in every if table.device == d) for d in devices},
        "suppressed": {site: sent.suppressed for site, sent in found.items()},
        "minimum_cohort": {site: sent.minimum_cohort for site, sent in found.items()},
        "without": dict(without),
    }


def _scores(tables: Iterable[Table]) -> Json:
    return {score: _entry(of_score) for score, of_score in site_tables.by_score(tables).items()}


def _entry(tables: list[Table]) -> Json:
    exams = sum(one.exams for one in tables)
    return {
        "exams": exams,
        "patients": sum(one.patients for one in tables),
        "contested": sum(one.contested for one in tables) / exams,
        "confusion": site_tables.confusion(tables).tolist(),
        "auc": [_number(cut.auc()) for cut in site_tables.histograms(tables)],
        **{name: _estimate(site_tables.estimate(metric, tables)) for name, metric in METRICS.items()},
    }


def _estimate(found: Estimate) -> Json:
    return {"value": _number(found.value), "ci95": [_number(found.low), _number(found.high)]}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
