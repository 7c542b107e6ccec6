"""Own patients: what training together is worth to each site on the patients of that site.

A site that trains alone knows its own machine, patients and readers best; a federation knows more of everybody
else's. So a mean over all sites' patients, most of them strangers to any one site, says little about what a
hospital gains. Here each site's own system is set beside the federation on that site's held-out patients alone.

Both systems are scored on the same drawn patients (:mod:`common.evaluation.bootstrap`). The mean over sites gives
every site one vote, whatever its size; patients are drawn within their site, independently of other sites', and the
sites are taken as they are: its interval speaks of other patients, not of other hospitals.

What cannot be computed is nan. A site where either system has none (no graded exams; kappa with one grade only) is
left out of the mean and of the counts.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8 (several samples, each resampled).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation.bootstrap import Estimate
from common.evaluation.paired import Metric

_TIE = 1e-12
"""Metrics that are equal on paper differ in the last bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One site's held-out exams, answered by two systems.

    Attributes:
        alone: by the system that the site trained alone, one confusion matrix per patient
            (``bootstrap.patient_confusions``).
        federated: by the federation, the same exams.
        draws: of the site's patients (``bootstrap.resamples``), as many replicates at every site.
    """

    alone: Int64[np.ndarray, "patients grades grades"]
    federated: Int64[np.ndarray, "patients grades grades"]
    draws: Int64[np.ndarray, "replicates patients"]

    def __post_init__(self) -> None:
        """Refuse what is not paired."""
        same = self.alone.shape == self.federated.shape
        if not same or (self.alone.sum(axis=-1) != self.federated.sum(axis=-1)).any():
            raise DataError(
                "Expected two systems that answered the same exams of the same patients, got reference grades that "
                "differ: keep the exams that both have answered."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A metric of two systems on the same patients.

    Attributes:
        alone: of the site's own system.
        federated: of the federation.
        gain: federated minus alone, paired by patient; below zero the site loses.
    """

    alone: Estimate
    federated: Estimate
    gain: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPatients:
    """A metric of every site's own system and of the federation, on that site's patients.

    Attributes:
        sites: by name.
        mean: over the sites.
        judged: the sites in the mean.
        losing: how many of them are worse off with the federation.
        losing_clearly: how many of these have an interval of the gain that lies below zero as a whole.
    """

    sites: Mapping[str, Compared]
    mean: Compared
    judged: int
    losing: int
    losing_clearly: int


def own_patients(sites: Mapping[str, Site], metric: Metric) -> OwnPatients:
    """Compare each site's own system with the federation on that site's patients.

    Args:
        sites: by name.
        metric: of the pooled confusion matrix, larger is better, for example ``agreement.accuracy``.
    """
    drawn = {name: _drawn(site, metric) for name, site in sites.items()}
    compared = {name: _compared(*found) for name, found in drawn.items()}
    judged = [name for name, found in compared.items() if np.isfinite(found.gain.value)]
    gains = [compared[name].gain for name in judged]
    return OwnPatients(
        sites=compared,
        mean=_compared(*_mean([drawn[name] for name in judged])),
        judged=len(judged),
        losing=sum(gain.value < -_TIE for gain in gains),
        losing_clearly=sum(gain.high < -_TIE for gain in gains),
    )


_Values = Float64[np.ndarray, " replicates"]
"""A metric of all exams as they are, then of each replicate."""


def _drawn(site: Site, metric: Metric) -> tuple[_Values, _Values]:
    def values(system: Int64[np.ndarray, "patients grades grades"]) -> _Values:
        replicates = bootstrap.replicate_confusions(system, site.draws)
        return np.asarray(metric(np.concatenate([system.sum(axis=0)[None], replicates])), dtype=np.float64)

    return values(site.alone), values(site.federated)


def _mean(drawn: list[tuple[_Values, _Values]]) -> tuple[_Values, _Values]:
    if not drawn:
        return np.full(1, np.nan), np.full(1, np.nan)
    alone, federated = (np.mean(system, axis=0) for system in zip(*drawn, strict=True))
    return alone, federated


def _compared(alone: _Values, federated: _Values) -> Compared:
    return Compared(alone=_summary(alone), federated=_summary(federated), gain=_summary(federated - alone))


def _summary(values: _Values) -> Estimate:
    return bootstrap.summary(float(values[0]), values[1:])
