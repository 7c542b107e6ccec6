"""Own patients: what training together is worth to each site on the patients of that site.

A site that trains alone knows its own machine, patients and readers best; a federation knows more of everybody
else's. So a mean over all sites' patients, most of them strangers to any one site, says little about what a
hospital gains. Here each site's own system is set beside others (the federation's, what the site made of it) on that
site's held-out patients alone.

All systems are scored on the same drawn patients (:mod:`common.evaluation.bootstrap`). The mean over sites gives
every site one vote, whatever its size; patients are drawn within their site, independently of other sites', and the
sites are taken as they are: its interval speaks of other patients, not of other hospitals.

Whether a site loses beyond chance is a test by patient at each site (:func:`common.evaluation.paired.swap_test`),
with Holm's correction over the sites: of five that neither gain nor lose, one often has an interval below zero.

What cannot be computed is nan. A site where any system has none (no graded exams; kappa with one grade only) is
left out of the mean and of the counts.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8 (several samples, each resampled);
Holm 1979, Scand. J. Statist. 6:65-70.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from common.errors import DataError
from common.evaluation import bootstrap, paired
from common.evaluation.bootstrap import Estimate
from common.evaluation.paired import Metric

ALONE = "alone"
"""The system that each other one is compared with: what the site trained by itself."""
LEVEL = 0.05
"""Of the test that a site loses, over all sites together."""
PERMUTATIONS = 1999
_TIE = 1e-12
"""Metrics that are equal on paper differ in the last bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One site's held-out exams, answered by several systems.

    Attributes:
        systems: :data:`ALONE` and what is compared with it, by name: one confusion matrix per patient
            (``bootstrap.patient_confusions``), of the same exams.
        draws: of the site's patients (``bootstrap.resamples``), as many replicates at every site.
    """

    systems: Mapping[str, Int64[np.ndarray, "patients grades grades"]]
    draws: Int64[np.ndarray, "replicates patients"]

    def __post_init__(self) -> None:
        """Refuse what is not paired."""
        alone = self.systems[ALONE]
        for system in self.systems.values():
            same = system.shape == alone.shape
            if not same or (system.sum(axis=-1) != alone.sum(axis=-1)).any():
                raise DataError(
                    "Expected systems that answered the same exams of the same patients, got reference grades that "
                    "differ: keep the exams that all have answered."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A metric of several systems on the same patients.

    Attributes:
        systems: by name.
        gains: of each but :data:`ALONE`, over that, paired by patient; below zero the site loses.
    """

    systems: Mapping[str, Estimate]
    gains: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPatients:
    """A metric of every site's systems on that site's patients.

    Attributes:
        sites: by name.
        mean: over the sites.
        judged: the sites in the mean.
        losing: system -> how many of them are worse off with it than alone.
        losing_clearly: system -> how many of these lose beyond chance, by Holm's correction over the sites.
    """

    sites: Mapping[str, Compared]
    mean: Compared
    judged: int
    losing: Mapping[str, int]
    losing_clearly: Mapping[str, int]


def own_patients(
    sites: Mapping[str, Site], metric: Metric, *, systems: Sequence[str], seed: int = 0
) -> OwnPatients:
    """Compare systems on each site's patients.

    Args:
        sites: by name.
        metric: of the pooled confusion matrix, larger is better, for example ``agreement.accuracy``.
        systems: that every site has, :data:`ALONE` among them.
        seed: of the permutations.
    """
    drawn = {name: _drawn(site, metric, systems) for name, site in sites.items()}
    compared = {name: _compared(found) for name, found in drawn.items()}
    judged = [name for name, found in compared.items() if _finite(found)]
    others = [system for system in systems if system != ALONE]
    values = {other: np.array([compared[name].gains[other].value for name in judged]) for other in others}
    clear = {
        other: paired.holm([_p(sites[name], metric, other, seed) for name in judged]) < LEVEL
        for other in others
    }
    return OwnPatients(
        sites=compared,
        mean=_compared(_mean([drawn[name] for name in judged], systems)),
        judged=len(judged),
        losing={other: int((values[other] < -_TIE).sum()) for other in others},
        losing_clearly={other: int(((values[other] < -_TIE) & clear[other]).sum()) for other in others},
    )


def _p(site: Site, metric: Metric, system: str, seed: int) -> float:
    return paired.swap_test(
        metric,
        site.systems[system],
        site.systems[ALONE],
        generator=np.random.default_rng(seed),
        permutations=PERMUTATIONS,
    )


def _finite(found: Compared) -> bool:
    return all(np.isfinite(estimate.value) for estimate in found.systems.values())


_Values = Float64[np.ndarray, " replicates"]
"""A metric of all exams as they are, then of each replicate."""


def _drawn(site: Site, metric: Metric, systems: Sequence[str]) -> dict[str, _Values]:
    def values(system: Int64[np.ndarray, "patients grades grades"]) -> _Values:
        replicates = bootstrap.replicate_confusions(system, site.draws)
        return np.asarray(metric(np.concatenate([system.sum(axis=0)[None], replicates])), dtype=np.float64)

    return {name: values(site.systems[name]) for name in systems}


def _mean(drawn: Sequence[Mapping[str, _Values]], systems: Sequence[str]) -> dict[str, _Values]:
    if not drawn:
        return {name: np.full(1, np.nan) for name in systems}
    return {name: np.mean([site[name] for site in drawn], axis=0) for name in systems}


def _compared(drawn: Mapping[str, _Values]) -> Compared:
    return Compared(
        systems={name: _summary(values) for name, values in drawn.items()},
        gains={name: _summary(values - drawn[ALONE]) for name, values in drawn.items() if name != ALONE},
    )


def _summary(values: _Values) -> Estimate:
    return bootstrap.summary(float(values[0]), values[1:])
