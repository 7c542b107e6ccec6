"""An ensemble as its sites judged it: what their tables say by site, by machine and together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from common.evaluation import calibration, conformal
from common.evaluation.agreement import METRICS
from common.evaluation.bootstrap import Estimate
from common.evaluation.conformal import Conformity
from common.evaluation.inside import number_sums, site_tables
from common.evaluation.inside.number_sums import NumberSums
from common.evaluation.inside.site_tables import Gain, SiteTables, Table
from common.text import json_values
from server.report import content
from server.report.content import Json
from server.report.tables import SHARES
from server.rounds import site_results


def read(run: Path) -> Json:
    """What sites told of a run's ensemble; empty where none was asked.

    Raises:
        DataError: if it cannot be read.
    """
    found, without = site_results.tables(run), site_results.without(run)
    return block(found, without, trained=_trained(run, found)) if found or without else {}


def _trained(run: Path, found: Mapping[str, SiteTables]) -> frozenset[str]:
    """The sites whose exams the networks learnt from: the others judge what they had no part in."""
    named = content.manifest(run).get("sites")
    return frozenset(map(str, named)) if isinstance(named, list) else frozenset(found)


def block(found: Mapping[str, SiteTables], without: Mapping[str, str], *, trained: frozenset[str]) -> Json:
    """As JSON's types; ``None`` for what cannot be computed.

    Args:
        found: site -> its tables.
        without: site -> why it gave none.
        trained: the sites that trained the ensemble.

    Returns:
        ``pooled`` (of the sites that trained), ``sites`` and ``devices``, each score -> ``exams``, ``patients``,
        ``contested`` (a share), ``confusion``, ``cuts`` (see :func:`_cuts`) and metrics with ``value`` and
        ``ci95``; ``suppressed``: site -> tables kept back; ``minimum_cohort``: site -> patients
        behind each table, at least; ``machines``: site -> its devices; ``trained``: sites; ``strangers``: sites that
        gave tables and trained nothing; ``without``; ``gains``: see :func:`_gains`; ``sets``: see :func:`_sets`;
        ``numbers``: ``pooled``, ``sites``
        and ``devices``, each number -> ``exams``, ``patients``, ``pearson``, ``rmse``, ``mae`` and ``bias``;
        ``cases``: site -> single exams that it told.
    """
    every = [table for sent in found.values() for table in sent.tables]
    pooled = [table for site, sent in found.items() if site in trained for table in sent.tables]
    devices = {site: sorted({table.device for table in sent.tables}) for site, sent in found.items()}
    return {
        "pooled": _scores(pooled),
        "sites": {site: _scores(sent.tables) for site, sent in found.items()},
        "devices": {
            device: _scores(table for table in every if table.device == device)
            for device in sorted({one for of_site in devices.values() for one in of_site})
        },
        "machines": devices,
        "suppressed": {site: sent.suppressed for site, sent in found.items()},
        "minimum_cohort": {site: sent.minimum_cohort for site, sent in found.items()},
        "trained": sorted(trained),
        "strangers": sorted(found.keys() - trained),
        "numbers": _numbers(found, trained),
        "cases": {
            site: count
            for site, sent in found.items()
            if (count := sum(one.exams for one in sent.tables if one.cases is not None))
        },
        "without": dict(without),
        "gains": {
            score: gains
            for score in site_tables.by_score(every)
            if (
                gains := _gains(
                    {site: site_tables.by_score(s.tables).get(score, []) for site, s in found.items()}
                )
            )
        },
        "sets": {
            score: sets
            for score, tables in site_tables.by_score(pooled).items()
            if (
                sets := _sets(
                    tables, {site: site_tables.by_score(s.tables) for site, s in found.items()}, score
                )
            )
        },
    }


def thresholds(run: Path) -> dict[str, float]:
    """Measurement -> threshold of sets of grades, of all sites together; empty where no site told of any.

    Raises:
        DataError: if what they told cannot be read.
    """
    found = read(run).get("sets", {})
    return {score: sets["threshold"] for score, sets in found.items()}


def _gains(by_site: Mapping[str, list[Table]]) -> Json:
    """What sites gain over training alone, each on its own patients; empty where none trained alone.

    Returns:
        ``sites``: site -> ``models``, ``exams``, ``patients`` and metrics with ``alone``, ``together`` and ``gain``,
        each with ``value`` and ``ci95``; ``mean``: these metrics over the sites, all alike, taken as they are;
        ``losing``: metric -> how many sites are worse off together.
    """
    told = {site: [one for one in tables if one.beside is not None] for site, tables in by_site.items()}
    told = {site: tables for site, tables in told.items() if tables}
    if not told:
        return {}
    gains = {
        metric: {
            site: gain for site, some in told.items() if (gain := site_tables.gain(of, some)) is not None
        }
        for metric, of in METRICS.items()
    }
    return {
        "sites": {
            site: {
                "models": min(one.beside.models for one in tables if one.beside is not None),
                "exams": sum(one.exams for one in tables),
                "patients": sum(one.patients for one in tables),
                **{metric: _gain(found[site], metric) for metric, found in gains.items()},
            }
            for site, tables in told.items()
        },
        "mean": {
            metric: _gain(site_tables.mean_gain(list(found.values())), metric)
            for metric, found in gains.items()
        },
        "losing": {
            metric: sum(one.gain.value < 0 for one in found.values()) for metric, found in gains.items()
        },
    }


def _gain(found: Gain, metric: str) -> Json:
    return {
        "alone": _agreement(found.alone, metric),
        "together": _agreement(found.together, metric),
        "gain": _estimate(found.gain),
    }


def _sets(tables: list[Table], by_site: Mapping[str, Mapping[str, list[Table]]], score: str) -> Json:
    """Sets of grades of one measurement, of the sites that tell what they need; empty where none does.

    Returns:
        ``level``, ``threshold``, ``calibration`` (exams), ``surest`` (``answered`` and ``right``, shares), and
        ``pooled``, ``sites`` and ``devices``, each with ``calibration``, ``common`` and ``own``: what sets are worth
        there at the common threshold, and at one of its own.
    """
    pooled = site_tables.conformity(tables)
    if pooled is None:
        return {}
    common = conformal.threshold(pooled)
    parts = {
        "sites": {site: scores[score] for site, scores in by_site.items() if score in scores},
        "devices": {
            d: [one for one in tables if one.device == d] for d in sorted({t.device for t in tables})
        },
    }
    surest = conformal.surest(pooled)
    return {
        "level": conformal.LEVEL,
        "threshold": common,
        "calibration": sum(pooled.calibration),
        "surest": None if surest is None else {"answered": surest[0], "right": surest[1]},
        "pooled": _place(pooled, common),
        **{
            kind: {
                place: _place(site_tables.conformity(some) or Conformity(), common)
                for place, some in of.items()
            }
            for kind, of in parts.items()
        },
    }


def _place(told: Conformity, common: float) -> Json:
    return {
        "calibration": sum(told.calibration),
        "common": _tried(told, common),
        "own": _tried(told, conformal.threshold(told)),
    }


def _tried(told: Conformity, at: float) -> Json | None:
    found = conformal.tried(told, at)
    return None if found is None else asdict(found)


def _numbers(found: Mapping[str, SiteTables], trained: frozenset[str]) -> Json:
    pooled = [one for site, sent in found.items() if site in trained for one in sent.numbers]
    return {
        "pooled": _of_numbers(pooled),
        "sites": {site: _of_numbers(sent.numbers) for site, sent in found.items() if sent.numbers},
        "devices": {
            device: _of_numbers([one for one in pooled if one.device == device])
            for device in sorted({one.device for one in pooled})
        },
    }


def _of_numbers(tables: Sequence[NumberSums]) -> Json:
    return {
        name: {
            "exams": sum(one.exams for one in of_number),
            "patients": sum(one.patients for one in of_number),
            **{metric: _estimate(one) for metric, one in number_sums.estimates(of_number).items()},
        }
        for name, of_number in number_sums.by_number(tables).items()
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
        "cuts": list(_cuts([one for one in tables if one.histograms])),
        **{name: _agreement(site_tables.estimate(metric, tables), name) for name, metric in METRICS.items()},
    }


def _cuts(tables: list[Table]) -> Iterator[Json]:
    """How far probabilities hold, of the tables that tell them.

    Yields:
        Of each cut ``above`` (a grade), ``exams``, ``auc``, ``ece`` (expected calibration error) and ``brier``.
    """
    for above, told in enumerate(site_tables.histograms(tables)):
        scores, labels, counts = told.binned()
        yield {
            "above": above,
            "exams": int(counts.sum()),
            "auc": json_values.number(told.auc()),
            "ece": float(calibration.weighted_ece(scores, labels, counts[None])[0]),
            "brier": float(calibration.weighted_brier(scores, labels, counts[None])[0]),
        }


def _agreement(found: Estimate, metric: str) -> Json:
    """An interval that is as wide on both sides may reach beyond what can be: cut there."""
    least = 0.0 if metric in SHARES else -1.0
    return _estimate(replace(found, low=max(found.low, least), high=min(found.high, 1.0)))


def _estimate(found: Estimate) -> Json:
    return {
        "value": json_values.number(found.value),
        "ci95": [json_values.number(found.low), json_values.number(found.high)],
    }
