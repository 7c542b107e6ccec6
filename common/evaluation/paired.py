"""Two systems on the same exams: is one better, tested with the **patient** as unit.

Under the null hypothesis the two systems' answers could be exchanged within any patient without changing how the
study is distributed. So each patient's two confusion matrices are swapped or not, at random, and the observed
difference of a metric is placed among those differences. Exams of a patient stay together, hence nothing is
assumed about how alike they are; a test of exams (McNemar's, or a z-test over bootstrap replicates, which tests
nothing) takes ten exams of a patient for ten facts and finds differences that are not there. A swap moves counts
between two sums, so all permutations are one matrix product.

**Guarantees.** If the null hypothesis holds, P(p <= a) <= a for every a, whatever the metric: p counts the
observed study among the permutations (Phipson and Smyth 2010), all of which are enumerated where they are few.
Where two systems are equal in the metric and fail differently (one more sensitive, the other more specific), the
answers cannot be exchanged and nothing is guaranteed. Where a metric rests on few exams p is then too small: of
Youden's index with one exam in ten positive, four exams per patient, 13 % of studies of 20 patients have p <= 0.05,
7 % of 40, 4 % of 100; with one in three positive p is too large, 2 % of studies (``benchmarks/paired_tests.py``).

===================================================  =============================
case                                                 p
===================================================  =============================
the systems agree on every patient, or no patients   1 (nan if the metric is nan)
the metric of the study as it is cannot be computed  nan
a permutation's metric cannot be computed            counts as extreme: p is larger
one patient                                          1
===================================================  =============================

Source: Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses, section 3.7 (matched pairs); Phipson
and Smyth 2010, doi 10.2202/1544-6115.1585, equation 2; Holm 1979, Scand. J. Statist. 6:65-70.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from numpy.typing import ArrayLike

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation.agreement import Values
from common.evaluation.bootstrap import Estimate

PERMUTATIONS = 9999
"""With the study as it is, 10,000: the smallest p that can be found is 0.0001."""
_TIE = 1e-12
"""Differences that are equal on paper differ in the last bits."""

Metric: TypeAlias = Callable[[ArrayLike], Values]
"""From confusion matrices ``(..., grades, grades)`` to a number each, ``(...)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A difference of two systems, first minus second.

    Attributes:
        value: from all exams as they are.
        low: 2.5 % quantile of the paired bootstrap over patients.
        high: 97.5 % quantile.
        p: two-sided, of the swap test. One of interval and test may exclude zero and the other not: with 30
            patients the interval misses the truth in about 7 % of studies instead of 5; the test has a guarantee.
    """

    value: float
    low: float
    high: float
    p: float


def compare(
    metric: Metric,
    first: Int64[np.ndarray, "*systems patients grades grades"],
    second: Int64[np.ndarray, "*same"],
    *,
    weights: Int64[np.ndarray, "replicates patients"],
    generator: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> Comparison:
    """A metric's difference between two systems with its interval and its p.

    Args:
        metric: of the pooled confusion matrix, for example ``agreement.accuracy``.
        first: one confusion matrix per patient, from ``bootstrap.patient_confusions``. Leading axes are several
            systems (readers, seeds), whose metrics are averaged; all of a patient's are swapped together.
        second: the same exams answered by the other, of the same shape.
        weights: from ``bootstrap.resamples``.
        generator: draws the permutations.
        permutations: how many are drawn where there are more.

    Raises:
        DataError: if the two do not have the same exams.
    """
    (value_a, drawn_a), (value_b, drawn_b) = (
        _drawn(metric, systems, weights) for systems in _systems(first, second)
    )
    interval = bootstrap.summary(value_a - value_b, drawn_a - drawn_b)
    p = swap_test(metric, first, second, generator=generator, permutations=permutations)
    return Comparison(value=interval.value, low=interval.low, high=interval.high, p=p)


def swap_test(
    metric: Metric,
    first: Int64[np.ndarray, "*systems patients grades grades"],
    second: Int64[np.ndarray, "*same"],
    *,
    generator: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> float:
    """Two-sided p of a difference of two systems, by swapping their answers within patients.

    Args:
        metric: of the pooled confusion matrix.
        first: see :func:`compare`.
        second: see :func:`compare`.
        generator: draws the permutations; not used if all can be enumerated.
        permutations: all are enumerated if there are no more than this, else so many are drawn.

    Returns:
        The share of permutations whose difference is at least as far from zero as the study's, which is
        counted as one of them. Small values mean that the systems answer differently; patients on whom they
        agree say nothing about that and don't count.

    Raises:
        DataError: if the two do not have the same exams.
    """
    a, b = _systems(first, second)
    differs = (a != b).any(axis=(0, 2, 3))
    swaps = _swaps(int(differs.sum()), permutations=permutations, generator=generator)
    moved = _replicates((a - b)[:, differs], swaps)
    before, after = a.sum(axis=1)[:, None] - moved, b.sum(axis=1)[:, None] + moved
    drawn = _mean(metric, before) - _mean(metric, after)
    if not np.isfinite(drawn[0]):
        return float("nan")
    # Written so that a difference that is nan counts as extreme.
    extreme = ~(np.abs(drawn) < np.abs(drawn[0]) - _TIE)
    return float(extreme.mean())


def estimate(
    metric: Metric,
    systems: Int64[np.ndarray, "*systems patients grades grades"],
    weights: Int64[np.ndarray, "replicates patients"],
) -> Estimate:
    """The mean of a metric over systems that are the leading axes, with its interval over the same patients.

    The systems are taken as they are: the interval speaks of other patients, not of other systems.
    """
    return bootstrap.summary(*_drawn(metric, _stacked(systems), weights))


def holm(p_values: ArrayLike) -> Float64[np.ndarray, " tests"]:
    """The p of a table's rows after Holm's correction: all below 0.05 hold together at 95 %.

    Args:
        p_values: in [0, 1], ``(tests,)``; nan is no test: it stays nan and isn't counted.
    """
    # As statsmodels' multipletests, which collects the whole process's garbage at every call: 0.2 s beside torch.
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given)  # nan at the end
    left = np.isfinite(given).sum() - np.arange(len(given))
    corrected = np.empty_like(given)
    corrected[order] = np.maximum.accumulate(np.minimum(given[order] * left, 1))
    return corrected


def _swaps(
    patients: int, *, permutations: int, generator: np.random.Generator
) -> Int64[np.ndarray, "permutations patients"]:
    """Whether each patient is swapped in each permutation; the first is the study as it is."""
    if 2**patients <= permutations:
        return (np.arange(2**patients)[:, None] >> np.arange(patients)) & 1
    drawn = generator.integers(0, 2, size=(permutations, patients))
    return np.concatenate([np.zeros((1, patients), dtype=np.int64), drawn])


def _drawn(
    metric: Metric,
    systems: Int64[np.ndarray, "systems patients grades grades"],
    weights: Int64[np.ndarray, "replicates patients"],
) -> tuple[float, Float64[np.ndarray, " replicates"]]:
    """The mean over the systems: of all exams as they are, and of each replicate."""
    return float(_mean(metric, systems.sum(axis=1))), _mean(metric, _replicates(systems, weights))


def _replicates(
    systems: Int64[np.ndarray, "systems patients grades grades"],
    weights: Int64[np.ndarray, "replicates patients"],
) -> Float64[np.ndarray, "systems replicates grades grades"]:
    return np.stack([bootstrap.replicate_confusions(system, weights) for system in systems])


def _mean(
    metric: Metric, confusions: Shaped[np.ndarray, "systems *replicates grades grades"]
) -> Float64[np.ndarray, "*replicates"]:
    return np.asarray(np.mean(np.asarray(metric(confusions)), axis=0), dtype=np.float64)


def _systems(
    first: Int64[np.ndarray, "*systems patients grades grades"],
    second: Int64[np.ndarray, "*same"],
) -> tuple[
    Int64[np.ndarray, "stack patients grades grades"], Int64[np.ndarray, "stack patients grades grades"]
]:
    if first.shape != second.shape:
        raise DataError(f"Expected two systems of one shape, got {first.shape} and {second.shape}.")
    if (first.sum(axis=-1) != second.sum(axis=-1)).any():
        raise DataError(
            "Expected two systems that answered the same exams, got reference grades that differ: keep the exams "
            "that both have answered."
        )
    return _stacked(first), _stacked(second)


def _stacked(
    systems: Int64[np.ndarray, "*systems patients grades grades"],
) -> Int64[np.ndarray, "stack patients grades grades"]:
    return systems.reshape(int(np.prod(systems.shape[:-3])), *systems.shape[-3:])
