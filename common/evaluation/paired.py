"""Two systems on the same exams: is one better, tested with the **patient** as unit.

If the two systems' answers could be exchanged within any patient without changing how the study is distributed, each
patient's two confusion matrices may be swapped or not, at random, and what the study found is placed among what such
swaps give. Exams of a patient stay together, hence nothing is assumed about how alike they are; a test of exams
(McNemar's, or a z-test over bootstrap replicates, which tests nothing) takes ten exams of a patient for ten facts
and finds differences that are not there. A swap moves counts between two sums, so all permutations are one matrix
product.

Two systems may be equal in the metric and fail differently, one more sensitive, the other more specific. Then answers
cannot be exchanged, and the difference alone has another spread among swaps than among studies. Two things are done:

* The difference is placed among swaps also **over its standard error**, which is computed anew for every swap
  (delta method over patients). What it is distributed like no longer depends on how the systems fail, as patients
  become many.
* Standard errors know only failures that were seen. Eight positive exams, all found by both systems, say little about
  sensitivity, and have no spread. So both are placed among swaps of the study with **one exam more**, of a patient of
  its own, which speaks against the difference as much as an error of one grade can: a continuity correction.

p is the largest of three: of the difference in the study as it is, and with one exam more of the difference and of
the difference over its standard error.

**Guarantees.** If the answers can be exchanged, P(p <= a) <= a for every a, whatever the metric: each p counts the
observed study among the permutations (Phipson and Smyth 2010), all of which are enumerated where they are few, and
the largest is no smaller than any. If only the metric is equal, P(p <= a) is at most a as patients become many, for a
metric that is smooth in the shares of exams. With few it was measured (``benchmarks/paired_tests.py``): 3,000 studies
each, four exams per patient, one exam in ten and one in three positive. The largest share of studies with p <= 0.05
over accuracy, linear kappa, sensitivity and Youden's index, in brackets that of the difference alone; then how often
a system that is right in 70 % of exams is found to be worse than one that is in 90 %:

=================================  =============  =============  =============
                                     20 patients             40            100
=================================  =============  =============  =============
equal, fail alike                  0.031 (0.055)  0.032 (0.050)  0.038 (0.052)
equal, one exchanges errors        0.038 (0.123)  0.030 (0.054)  0.029 (0.037)
equal, one fails throughout        0.056 (0.106)  0.057 (0.077)  0.044 (0.063)
found: accuracy, 1 in 10             0.50 (0.58)    0.88 (0.90)    1.00 (1.00)
found: accuracy, 1 in 3              0.50 (0.59)    0.90 (0.91)    1.00 (1.00)
found: linear kappa, 1 in 10         0.41 (0.61)    0.84 (0.91)    1.00 (1.00)
found: linear kappa, 1 in 3          0.53 (0.64)    0.90 (0.93)    1.00 (1.00)
found: Youden's index, 1 in 10       0.06 (0.52)    0.31 (0.74)    0.91 (0.97)
found: Youden's index, 1 in 3        0.39 (0.54)    0.81 (0.87)    1.00 (1.00)
found: sensitivity, 1 in 10          0.00 (0.00)    0.00 (0.01)    0.05 (0.15)
found: sensitivity, 1 in 3           0.01 (0.05)    0.11 (0.24)    0.61 (0.71)
=================================  =============  =============  =============

===================================================  =============================
case                                                 p
===================================================  =============================
the systems agree on every patient, or no patients   1 (nan if the metric is nan)
the metric of the study as it is cannot be computed  nan
a permutation's metric cannot be computed            counts as extreme: p is larger
one exam more takes the difference away              1
one patient                                          1
===================================================  =============================

Source: Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses, section 3.7 (matched pairs); Phipson
and Smyth 2010, doi 10.2202/1544-6115.1585, equation 2; over the standard error: Janssen 1997, Statist. Probab. Lett.
36:9-21, Chung and Romano 2013, doi 10.1214/13-AOS1090, for pairs Konietschke and Pauly 2014, doi
10.1007/s11222-012-9370-4; exams added to small tables: Agresti and Min 2005, Statist. Med. 24:729-740; Holm 1979,
Scand. J. Statist. 6:65-70.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from numpy.typing import ArrayLike

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation.agreement import Values, accuracy
from common.evaluation.bootstrap import Estimate

PERMUTATIONS = 9999
"""With the study as it is, 10,000: the smallest p that can be found is 0.0001."""
_TIE = 1e-9
"""Values that are equal on paper differ in the last bits."""
_STEP = 1e-4
"""Of an exam, in derivatives: the error is about this over the number of exams."""
_AT_ONCE = 1000
"""Permutations whose derivatives are taken together: as many as a processor's cache holds."""

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
    interval = difference(metric, *_systems(first, second), weights=weights)
    p = swap_test(metric, first, second, generator=generator, permutations=permutations)
    return Comparison(value=interval.value, low=interval.low, high=interval.high, p=p)


def difference(
    metric: Metric,
    first: Int64[np.ndarray, "*systems patients grades grades"],
    second: Int64[np.ndarray, "*other_systems patients grades grades"],
    *,
    weights: Int64[np.ndarray, "replicates patients"],
) -> Estimate:
    """The interval of :func:`compare` without its test; the two need not have answered the same exams."""
    (value_a, drawn_a), (value_b, drawn_b) = (
        _drawn(metric, _stacked(systems), weights) for systems in (first, second)
    )
    return bootstrap.summary(value_a - value_b, drawn_a - drawn_b)


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
        metric: of the pooled confusion matrix; it grows as answers get right.
        first: see :func:`compare`.
        second: see :func:`compare`.
        generator: draws the permutations; not used if all can be enumerated.
        permutations: all are enumerated if there are no more than this, otherwise this many are drawn.

    Returns:
        The share of permutations whose difference is at least as far from zero as the study's, which is
        counted as one of them: the largest of three such shares, as this module says.

    Raises:
        DataError: if the two do not have the same exams.
    """
    a, b = _systems(first, second)
    differs = (a != b).any(axis=(0, 2, 3))
    study = float(_mean(metric, a.sum(axis=1)) - _mean(metric, b.sum(axis=1)))
    if not np.isfinite(study):
        return float("nan")
    more = _against(metric, a, b, study)
    if more is None:
        return 1.0  # one exam more, and nothing is left of the difference
    swaps = _swaps(int(differs.sum()) + 1, permutations=permutations, generator=generator)
    as_it_is = np.concatenate([_differences(metric, a, b, differs, part[:, :-1]) for part in _parts(swaps)])
    a, b, differs = *_with(more, a, b), np.append(differs, True)
    parts = [_studentised(metric, a, b, differs, part) for part in _parts(swaps)]
    with_one_more = (np.concatenate(values) for values in zip(*parts, strict=True))
    return max(map(_share, (as_it_is, *with_one_more)))


def signed_rank(
    first: Int64[np.ndarray, "*systems patients grades grades"],
    second: Int64[np.ndarray, "*other_systems patients grades grades"],
) -> float:
    """Two-sided p of Wilcoxon's signed rank test of two systems' accuracy by patient, each patient counting alike.

    Beside :func:`swap_test`, which counts exams alike: a patient with many exams has one rank here. Its null
    hypothesis is that a patient's difference is as often so much above zero as below.

    Args:
        first: one confusion matrix per patient; leading axes are several systems (readers, seeds), which are pooled.
        second: the same patients answered by others; patients whom one side did not answer are left out.

    Returns:
        As :func:`wilcoxon`.
    """
    shares = [np.asarray(accuracy(_stacked(side).sum(axis=0))) for side in (first, second)]
    return wilcoxon(shares[0] - shares[1])


def wilcoxon(by_patient: Float64[np.ndarray, " patients"]) -> float:
    """Two-sided p of Wilcoxon's signed rank test.

    Args:
        by_patient: differences, nan where there is none.

    Returns:
        From the exact distribution up to 50 patients, with equal differences up to 13; otherwise from the normal one,
        corrected for these. 1 if no patient differs, nan without any difference.

    Source:
        Wilcoxon 1945, doi 10.2307/3001968; zeros are left out, as there.
    """
    differences = by_patient.round(12)  # equal on paper: of one rank
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return float("nan")
    differences = differences[differences != 0]
    if len(differences) > 13:
        from scipy import stats  # noqa: PLC0415  takes long

        return float(stats.wilcoxon(differences).pvalue)
    # All signs at once: scipy, where two are equal, asks for them one by one, which takes a second.
    signs = 1 - 2 * bootstrap.subsets(len(differences))
    _, place, ties = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    sums = np.abs(signs @ (ranks * np.sign(differences)))
    return float((sums >= sums[0] - _TIE).mean())


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


def _parts(
    swaps: Int64[np.ndarray, "permutations differing"],
) -> Iterator[Int64[np.ndarray, "part differing"]]:
    return (swaps[begin : begin + _AT_ONCE] for begin in range(0, len(swaps), _AT_ONCE))


def _share(values: Float64[np.ndarray, " permutations"]) -> float:
    """Of permutations that are at least as extreme as the first; written so that those that are nan are."""
    return float((~(values < values[0] * (1 - _TIE) - _TIE)).mean())


def _pooled(
    a: Int64[np.ndarray, "systems patients grades grades"],
    b: Int64[np.ndarray, "systems patients grades grades"],
    differs: Bool[np.ndarray, " patients"],
    swaps: Int64[np.ndarray, "permutations differing"],
) -> tuple[
    Float64[np.ndarray, "systems permutations grades grades"],
    Float64[np.ndarray, "systems permutations grades grades"],
]:
    """Both sides' confusion matrices after each permutation."""
    moved = _replicates((a - b)[:, differs], swaps)
    return a.sum(axis=1)[:, None] - moved, b.sum(axis=1)[:, None] + moved


def _differences(
    metric: Metric,
    a: Int64[np.ndarray, "systems patients grades grades"],
    b: Int64[np.ndarray, "systems patients grades grades"],
    differs: Bool[np.ndarray, " patients"],
    swaps: Int64[np.ndarray, "permutations differing"],
) -> Float64[np.ndarray, " permutations"]:
    before, after = _pooled(a, b, differs, swaps)
    return np.asarray(np.abs(_mean(metric, before) - _mean(metric, after)))


def _studentised(
    metric: Metric,
    a: Int64[np.ndarray, "systems patients grades grades"],
    b: Int64[np.ndarray, "systems patients grades grades"],
    differs: Bool[np.ndarray, " patients"],
    swaps: Int64[np.ndarray, "permutations differing"],
) -> tuple[Float64[np.ndarray, " permutations"], Float64[np.ndarray, " permutations"]]:
    """|difference| of each permutation, and the same over its standard error (but for a factor that all share)."""
    occurs = (a + b).any(axis=(0, 1))
    (value_a, slope_a), (value_b, slope_b) = (
        _slopes(metric, pooled, occurs) for pooled in _pooled(a, b, differs, swaps)
    )
    # What a patient adds: slope_a . a - slope_b . b, and where swapped slope_a . b - slope_b . a.
    middle, half = (a + b)[..., occurs] / 2, (a - b)[:, differs][..., occurs] / 2
    added = _sum_of_products(slope_a - slope_b, middle)
    added[:, differs] += (1 - 2 * swaps) * _sum_of_products(slope_a + slope_b, half)
    difference, error = np.abs(value_a - value_b), np.sqrt(np.square(added / len(a)).sum(axis=1))
    ratio = np.divide(difference, error, out=np.where(difference > _TIE, np.inf, 0.0), where=error > _TIE)
    return difference, np.where(np.isfinite(difference + error), ratio, np.nan)


def _sum_of_products(
    slopes: Float64[np.ndarray, "systems permutations cells"],
    counts: Float64[np.ndarray, "systems patients cells"],
) -> Float64[np.ndarray, "permutations patients"]:
    products = [slope @ count.T for slope, count in zip(slopes, counts, strict=True)]
    return np.asarray(np.sum(products, axis=0), dtype=np.float64)


def _slopes(
    metric: Metric,
    pooled: Float64[np.ndarray, "systems permutations grades grades"],
    cells: Bool[np.ndarray, "grades grades"],
) -> tuple[Float64[np.ndarray, " permutations"], Float64[np.ndarray, "systems permutations cells"]]:
    """The metric's mean over the systems, and its derivative by the counts of some cells for each of them."""
    places = np.argwhere(cells)
    steps = np.zeros((len(places), *cells.shape))
    steps[np.arange(len(places)), *places.T] = _STEP
    value = np.asarray(metric(pooled), dtype=np.float64)
    slopes = (np.asarray(metric(pooled[..., None, :, :] + steps)) - value[..., None]) / _STEP
    return np.asarray(value.mean(axis=0), dtype=np.float64), slopes


_Pair: TypeAlias = tuple[Int64[np.ndarray, "grades grades"], Int64[np.ndarray, "grades grades"]]


def _against(
    metric: Metric,
    a: Int64[np.ndarray, "systems patients grades grades"],
    b: Int64[np.ndarray, "systems patients grades grades"],
    study: float,
) -> _Pair | None:
    """One exam that the better system gets wrong by a grade and the other right: it narrows the difference most.

    Returns:
        Its confusion matrices by the first and second system; ``None`` if nothing is left of it then.
    """
    grades = a.shape[-1]
    pooled = a.sum(axis=1), b.sum(axis=1)
    least, chosen = np.inf, None
    for grade in np.flatnonzero(pooled[0].any(axis=(0, 2))):
        for answer in {max(grade - 1, 0), min(grade + 1, grades - 1)} - {grade}:
            right, wrong = np.zeros((2, grades, grades), dtype=np.int64)
            right[grade, grade] = wrong[grade, answer] = 1
            pair = (wrong, right) if study > 0 else (right, wrong)
            values = [float(_mean(metric, x + exam)) for x, exam in zip(pooled, pair, strict=True)]
            left = float(np.nan_to_num(np.sign(study) * (values[0] - values[1]), nan=-np.inf))
            if left < least:
                least, chosen = left, pair
    return chosen if least > _TIE else None


def _with(
    more: _Pair,
    a: Int64[np.ndarray, "systems patients grades grades"],
    b: Int64[np.ndarray, "systems patients grades grades"],
) -> tuple[
    Int64[np.ndarray, "systems more_patients grades grades"],
    Int64[np.ndarray, "systems more_patients grades grades"],
]:
    """With a patient who has one exam, answered alike by all systems of a side."""
    first, second = (
        np.concatenate([x, np.broadcast_to(exam, (len(x), 1, *exam.shape))], axis=1)
        for x, exam in zip((a, b), more, strict=True)
    )
    return first, second


def _swaps(
    patients: int, *, permutations: int, generator: np.random.Generator
) -> Int64[np.ndarray, "permutations patients"]:
    """Whether each patient is swapped in each permutation; the first is the study as it is."""
    if 2**patients <= permutations:
        return bootstrap.subsets(patients)
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
