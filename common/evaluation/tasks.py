"""A binary task over the networks that learn it, as the paper of RATING reports it.

Ten networks learn a task such as "hypertrophy > 1" (five folds x two seeds). Each one is scored alone, with its
own threshold, and the table gives the mean over the networks +- 1.96 sigma / sqrt(networks).

**What this interval is not.** It tells how much the mean would move if networks were trained again in the same
manner; they share their training data and are scored on the same exams, so it says nothing about other
*patients*, and it shrinks as networks are added while the patients stay as few as they are. Intervals that speak
of patients are in :mod:`common.evaluation.bootstrap`.

Source: Zhou et al. 2022, Patterns, doi 10.1016/j.patter.2022.100592, Experimental procedures (statistics).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from common.errors import DataError

NORMAL_QUANTILE = 1.96
"""As printed in the paper, for 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMean:
    """The mean of a figure over networks; nan where it cannot be computed.

    Attributes:
        value: the mean over the networks that have the figure.
        low: ``value - 1.96 sigma / sqrt(networks)``; may lie outside of what the figure can be.
        high: the same above. Both are nan with fewer than two networks: one has no spread.
        networks: how many networks have the figure.
    """

    value: float
    low: float
    high: float
    networks: int


def task(probabilities: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> dict[str, NetworkMean]:
    """``auc``, ``ppv``, ``npv``, ``sensitivity`` and ``specificity`` of a task, each the mean over its networks.

    Args:
        probabilities: of class 1, ``(exams, networks)``.
        labels: 0/1 or boolean, ``(exams,)``.
        thresholds: one per network; a probability **>=** threshold answers 1.

    Raises:
        DataError: for shapes that do not fit, a number that is not finite, a label that is not 0 or 1.
    """
    rates = network_rates(probabilities, labels, thresholds)
    return {name: over_networks(values) for name, values in rates.items()}


def network_rates(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: ArrayLike
) -> dict[str, Float64[np.ndarray, " networks"]]:
    """The figures of :func:`task` for each network.

    =================================  ======================================
    case                               what is nan
    =================================  ======================================
    no exam of class 1                 AUC, sensitivity (and PPV is 0 or nan)
    no exam of class 0                 AUC, specificity (and NPV is 0 or nan)
    a network that never answers 1     its PPV
    a network that never answers 0     its NPV
    =================================  ======================================

    Raises:
        DataError: as :func:`task`.
    """
    p, y, cuts = _checked(probabilities, labels, thresholds)
    answers = p >= cuts
    return {
        "auc": _auc(p, y),
        "ppv": _share(y[:, None], among=answers),
        "npv": _share(~y[:, None], among=~answers),
        "sensitivity": _share(answers, among=y[:, None]),
        "specificity": _share(~answers, among=~y[:, None]),
    }


def over_networks(values: ArrayLike) -> NetworkMean:
    """Mean over networks +- 1.96 sigma / sqrt(networks), with sigma the sample's (divided by networks - 1).

    Args:
        values: one per network, ``(networks,)``; those that are nan are left out, and not counted.
    """
    given = np.asarray(values, dtype=np.float64)
    finite = given[np.isfinite(given)]
    if not finite.size:
        return NetworkMean(value=np.nan, low=np.nan, high=np.nan, networks=0)
    mean = float(finite.mean())
    sigma = float(finite.std(ddof=1)) if finite.size > 1 else np.nan
    margin = NORMAL_QUANTILE * sigma / float(np.sqrt(finite.size))
    return NetworkMean(value=mean, low=mean - margin, high=mean + margin, networks=int(finite.size))


def _auc(
    p: Float64[np.ndarray, "exams networks"], y: Bool[np.ndarray, " exams"]
) -> Float64[np.ndarray, " networks"]:
    if not p.size or y.all() or not y.any():
        return np.full(p.shape[1], np.nan)
    # The same labels for every network: to scikit-learn, as many tasks scored at once.
    each = roc_auc_score(np.broadcast_to(y[:, None], p.shape), p, average=None)
    return np.atleast_1d(np.asarray(each, dtype=np.float64))


def _share(
    holds: Bool[np.ndarray, "exams _"], *, among: Bool[np.ndarray, "exams _"]
) -> Float64[np.ndarray, " networks"]:
    """Share of the exams ``among`` which it ``holds``, for each network."""
    part = np.asarray((holds & among).sum(axis=0), dtype=np.float64)
    whole = np.broadcast_to(among.sum(axis=0), part.shape)
    shares = np.full(part.shape, np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _checked(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: ArrayLike
) -> tuple[
    Float64[np.ndarray, "exams networks"], Bool[np.ndarray, " exams"], Float64[np.ndarray, " networks"]
]:
    p, cuts = (np.asarray(array, dtype=np.float64) for array in (probabilities, thresholds))
    y = np.asarray(labels)
    if p.ndim != 2 or (*y.shape, *cuts.shape) != p.shape:
        raise DataError(
            "Expected probabilities (exams, networks) with one label per exam and one threshold per network, got "
            f"shapes {p.shape}, {y.shape} and {cuts.shape}."
        )
    if not (np.isfinite(p).all() and np.isfinite(cuts).all()):
        raise DataError("Expected finite numbers, got nan or infinity: leave out exams without a score.")
    if not np.isin(y, (0, 1)).all():
        raise DataError("Expected labels 0 or 1: leave out exams that were not graded.")
    return p, y.astype(np.bool_), cuts
