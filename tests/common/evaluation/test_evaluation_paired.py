from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.stats import wilcoxon
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from common.errors import DataError
from common.evaluation import bootstrap, paired
from common.evaluation.agreement import Values, accuracy, balanced_accuracy, kappa
from common.evaluation.paired import Metric
from common.evaluation.roc import youden


def linear(confusion: ArrayLike) -> Values:
    return kappa(confusion, weights="linear")


def answers(
    generator: np.random.Generator, truth: np.ndarray, patient: np.ndarray, right: float, spread: float
) -> np.ndarray:
    """Grades of a system: each patient has a chance of being answered rightly, the same for all his exams."""
    chance = np.clip(generator.normal(right, spread, patient.max() + 1), 0, 1)[patient]
    return np.where(generator.random(len(truth)) < chance, truth, (truth + 1) % 4)


def study(
    seed: int, *, patients: int, exams: int = 8, right: tuple[float, ...] = (0.7, 0.7), spread: float = 0.2
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), exams)
    truth = generator.integers(0, 4, len(patient))
    return truth, patient, [answers(generator, truth, patient, r, spread) for r in right]


def matrices(
    seed: int, *, patients: int, exams: int = 8, right: tuple[float, ...] = (0.7, 0.7)
) -> list[np.ndarray]:
    truth, patient, systems = study(seed, patients=patients, exams=exams, right=right)
    return [
        bootstrap.patient_confusions(truth, system, patient, grades=4, patients=patients)
        for system in systems
    ]


def difference(
    metric: paired.Metric, first: np.ndarray, second: np.ndarray, weights: np.ndarray
) -> bootstrap.Estimate:
    """One system's metric minus the other's, both on the same drawn patients."""
    drawn = [np.asarray(metric(bootstrap.replicate_confusions(one, weights))) for one in (first, second)]
    value = float(metric(first.sum(axis=0))) - float(metric(second.sum(axis=0)))
    return bootstrap.summary(value, drawn[0] - drawn[1])


def p_value(
    metric: Metric,
    first: np.ndarray,
    second: np.ndarray,
    *,
    seed: int = 0,
    permutations: int = paired.PERMUTATIONS,
) -> float:
    generator = np.random.default_rng(seed)
    return paired.swap_test(metric, first, second, generator=generator, permutations=permutations)


def standard_error(metric: Metric, a: np.ndarray, b: np.ndarray) -> float:
    """By the delta method, patient by patient: how the difference moves as a patient counts a little more."""
    step = 1e-5
    pooled = a.sum(axis=0), b.sum(axis=0)
    moves = [
        (float(metric(pooled[0] + step * x)) - float(metric(pooled[0] - step * x)))
        - (float(metric(pooled[1] + step * y)) - float(metric(pooled[1] - step * y)))
        for x, y in zip(a, b, strict=True)
    ]
    return float(np.sqrt(np.square(np.array(moves) / (2 * step)).sum()))


def by_hand(metric: Metric, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """p of the difference, and of the difference over its standard error, over all swaps one by one."""
    values = []
    for swap in product([False, True], repeat=len(first)):
        s = np.array(swap)[:, None, None]
        a, b = np.where(s, second, first), np.where(s, first, second)
        difference = abs(float(metric(a.sum(axis=0)) - metric(b.sum(axis=0))))
        values.append((difference, difference / standard_error(metric, a, b)))
    plain, studentised = np.array(values).T
    return float(np.mean(plain >= plain[0] - 1e-9)), float(np.mean(studentised >= studentised[0] - 1e-6))


@pytest.mark.parametrize("metric", [accuracy, linear])
def test_few_patients_are_enumerated(metric: Metric) -> None:
    first, second = matrices(3, patients=6, right=(0.8, 0.6))
    # An exam of grade 0 to 3 that the first, which is the better, gets wrong by one, and the second right.
    exams = []
    for grade, answer in ((0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)):
        wrong, right = np.zeros((2, 1, 4, 4), dtype=np.int64)
        wrong[0, grade, answer] = right[0, grade, grade] = 1
        more = np.concatenate([first, wrong]), np.concatenate([second, right])
        exams.append((float(metric(more[0].sum(axis=0)) - metric(more[1].sum(axis=0))), more))
    left, more = min(exams, key=lambda each: each[0])
    assert 0 < left < float(metric(first.sum(axis=0)) - metric(second.sum(axis=0)))
    expected = max(by_hand(metric, first, second)[0], *by_hand(metric, *more))
    assert by_hand(metric, first, second)[0] < expected < 1
    assert p_value(metric, first, second) == expected
    # So many patients that the permutations are drawn: near the same, and never below 1 / (permutations + 1).
    assert p_value(metric, first, second, permutations=50) == pytest.approx(expected, abs=0.2)


def test_drawn_permutations_come_near_all_of_them() -> None:
    first, second = matrices(8, patients=11, right=(0.75, 0.65))
    exact = p_value(linear, first, second)
    drawn = [p_value(linear, first, second, permutations=2000, seed=seed) for seed in range(3)]
    assert drawn == pytest.approx([exact] * 3, abs=4 * np.sqrt(0.25 / 2000))


def test_p_is_never_zero_and_counts_the_study_itself() -> None:
    truth, patient, _ = study(0, patients=30)
    first, second = (
        bootstrap.patient_confusions(truth, answer, patient, grades=4, patients=30)
        for answer in (truth, (truth + 1) % 4)
    )
    assert p_value(accuracy, first, second, permutations=999) == 1 / 1000


def test_under_the_null_hypothesis_p_is_uniform_where_a_test_of_exams_finds_what_is_not_there() -> None:
    # Both systems are equally good, but each has patients whom it gets wrong throughout.
    swap, naive = [], []
    for seed in range(300):
        truth, patient, (one, other) = study(seed, patients=20, exams=15, spread=0.25)
        first, second = (
            bootstrap.patient_confusions(truth, s, patient, grades=4, patients=20) for s in (one, other)
        )
        swap.append(p_value(accuracy, first, second, permutations=199, seed=seed))
        a, b = one == truth, other == truth
        table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        naive.append(mcnemar(table, exact=True).pvalue)
    # 300 studies: a share of 5 % is known to 1.3 % (one standard error).
    assert 0.01 < np.mean(np.array(swap) <= 0.05) < 0.08
    assert abs(np.mean(np.array(swap) <= 0.5) - 0.5) < 0.1
    assert np.mean(np.array(naive) <= 0.05) > 0.2


def test_systems_that_fail_differently_are_not_told_apart_where_the_metric_is_equal() -> None:
    """Twenty patients, one exam in ten positive: one system misses some, the other calls healthy ones ill."""
    found, alone = [], []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        patient = np.repeat(np.arange(20), 4)
        truth = (generator.random(80) < generator.beta(0.2, 1.8, 20)[patient]).astype(int)
        if not 0 < truth.sum() < 80:
            continue
        pair = [
            bootstrap.patient_confusions(
                truth,
                np.where((generator.random(80) < 0.3) & (truth == failing), 1 - truth, truth),
                patient,
                grades=2,
                patients=20,
            )
            for failing in (0, 1)
        ]
        found.append(p_value(lambda c: youden(c, cut=0), *pair, permutations=199) <= 0.05)
        swaps = generator.integers(0, 2, size=(199, 20))
        swaps[0] = 0
        moved = bootstrap.replicate_confusions(pair[0] - pair[1], swaps)
        drawn = np.abs(
            youden(pair[0].sum(axis=0) - moved, cut=0) - youden(pair[1].sum(axis=0) + moved, cut=0)
        )
        alone.append(np.mean(drawn >= drawn[0] - 1e-12) <= 0.05)
    assert np.mean(found) <= 0.05
    assert np.mean(alone) > 0.1, "the difference alone finds what is not there"


@pytest.mark.parametrize("metric", [accuracy, linear])
def test_a_difference_is_found(metric: Metric) -> None:
    found = [
        p_value(metric, *matrices(seed, patients=60, right=(0.8, 0.6)), permutations=199) < 0.05
        for seed in range(20)
    ]
    assert np.mean(found) > 0.9


@given(st.integers(0, 1000))
def test_symmetries(seed: int) -> None:
    first, second = matrices(seed, patients=5, exams=4)
    p = p_value(linear, first, second)
    assert 2 / 2**5 <= p <= 1
    assert p_value(linear, second, first) == p
    order = np.random.default_rng(seed).permutation(5)
    assert p_value(linear, first[order], second[order]) == p


@given(st.integers(0, 1000))
def test_patients_on_whom_both_agree_are_no_evidence(seed: int) -> None:
    first, second = matrices(seed, patients=5, exams=4)
    same = matrices(seed + 1, patients=40, exams=4)[0]
    with_them = [np.concatenate([system, same]) for system in (first, second)]
    assert p_value(accuracy, *with_them) == pytest.approx(p_value(accuracy, first, second), abs=2 / 2**5)


def test_an_exam_that_takes_the_difference_away_leaves_p_at_one() -> None:
    """Two positive exams: one more that the better system misses, and they are equal."""
    truth, patient = np.array([1, 1, 0, 0]), np.arange(4)
    first, second = (
        bootstrap.patient_confusions(truth, answers, patient, grades=2, patients=4)
        for answers in ([1, 1, 0, 0], [1, 0, 0, 0])
    )
    assert p_value(accuracy, first, second) == 1


def test_a_grade_that_does_not_occur_moves_no_standard_error() -> None:
    """The mean over the grades that occur jumps as a further one does: no exam of it, no derivative."""

    def three_grades(confusion: ArrayLike) -> np.ndarray:
        rows = np.asarray(confusion, dtype=np.float64)[..., :3, :]
        return np.asarray((np.diagonal(rows, axis1=-2, axis2=-1) / rows.sum(axis=-1)).mean(axis=-1))

    first, second = matrices(12, patients=9, right=(0.9, 0.5))
    kept = [np.concatenate([system[:, :3], 0 * system[:, 3:]], axis=1) for system in (first, second)]
    p = p_value(balanced_accuracy, *kept)
    assert p == p_value(three_grades, *kept)
    assert 2 / 2**9 < p < 0.2


def test_readers_are_swapped_together() -> None:
    first, second = matrices(1, patients=8, right=(0.8, 0.6))
    one = p_value(accuracy, first, second)
    # A reader who is there twice is no new evidence.
    assert p_value(accuracy, np.stack([first, first]), np.stack([second, second])) == one
    weights = bootstrap.resamples(8, replicates=200, generator=np.random.default_rng(0))
    third, fourth = matrices(2, patients=8, right=(0.9, 0.5))
    both = paired.compare(
        accuracy,
        np.stack([first, third]),
        np.stack([second, fourth]),
        weights=weights,
        generator=np.random.default_rng(0),
    )
    each = [difference(accuracy, *pair, weights).value for pair in ((first, second), (third, fourth))]
    assert both.value == pytest.approx(np.mean(each))
    assert both.low < both.value < both.high
    assert both.p < one


def test_the_comparison_of_one_pair_has_the_interval_of_the_paired_bootstrap() -> None:
    first, second = matrices(4, patients=30)
    weights = bootstrap.resamples(30, replicates=300, generator=np.random.default_rng(1))
    got = paired.compare(linear, first, second, weights=weights, generator=np.random.default_rng(2))
    expected = difference(linear, first, second, weights)
    assert (got.value, got.low, got.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert got.p == p_value(linear, first, second, seed=2)


def test_edges() -> None:
    first, second = matrices(5, patients=1)
    assert p_value(accuracy, first, second) == 1
    assert p_value(accuracy, first, first) == 1
    none = np.zeros((0, 4, 4), dtype=np.int64)
    assert np.isnan(p_value(accuracy, none, none))
    # One grade in reference and answers: there is no kappa.
    alike = np.zeros((3, 4, 4), dtype=np.int64)
    alike[:, 1, 1] = 2
    assert np.isnan(p_value(linear, alike, alike))


def test_a_permutation_without_a_metric_counts_as_extreme() -> None:
    def precision(confusion: ArrayLike) -> np.ndarray:
        matrix = np.asarray(confusion, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            return np.asarray(matrix[..., 1, 1] / matrix[..., 1].sum(axis=-1))

    # A patient per exam; the first system answers 1 once and rightly, the second twice and once rightly.
    first, second = (
        bootstrap.patient_confusions([1, 1, 0, 0], grades, np.arange(4), grades=2, patients=4)
        for grades in ([1, 0, 0, 0], [0, 1, 1, 0])
    )
    # Of the 8 permutations of the three patients who differ, two leave a system that never answers 1.
    values = []
    for swap in product([False, True], repeat=3):
        s = np.array([*swap, False])[:, None, None]
        a, b = np.where(s, second, first), np.where(s, first, second)
        values.append(float(precision(a.sum(axis=0)) - precision(b.sum(axis=0))))
    assert np.isnan(values).sum() == 2
    assert p_value(precision, first, second) == np.mean(np.isnan(values) | (np.abs(values) >= 0.5))


def test_the_signed_rank_test_counts_patients_alike() -> None:
    """Ten patients, the first of whom has as many exams as all others."""
    exams = np.array([18, *[2] * 9])
    patient = np.repeat(np.arange(10), exams)
    truth = np.zeros(len(patient), dtype=np.int64)
    worse_in_one = np.where(patient == 0, 1, 0)
    worse_in_others = np.where(patient > 0, 1, 0)
    one, others, right = (
        bootstrap.patient_confusions(truth, answers, patient, grades=4, patients=10)
        for answers in (worse_in_one, worse_in_others, truth)
    )
    assert paired.signed_rank(right, one) == 1
    assert paired.signed_rank(right, others) == 2 / 2**9
    assert paired.signed_rank(one, others) == paired.signed_rank(others, one) < 0.05
    assert paired.signed_rank(right, right) == 1
    # Averaged over readers: what one gains another loses.
    assert paired.signed_rank(np.stack([right, others]), np.stack([others, right])) == 1
    assert np.isnan(paired.signed_rank(0 * right, 0 * right))


@pytest.mark.parametrize("patients", [9, 25])
def test_the_signed_rank_test_is_scipys_of_the_patients_shares(patients: int) -> None:
    truth, patient, systems = study(2, patients=patients, right=(0.8, 0.6))
    first, second = matrices(2, patients=patients, right=(0.8, 0.6))
    shares = [np.bincount(patient, system == truth) / 8 for system in systems]
    assert paired.signed_rank(first, second) == pytest.approx(wilcoxon(*shares).pvalue)


def test_other_exams_are_refused() -> None:
    first, second = matrices(0, patients=4)
    with pytest.raises(DataError, match="same exams"):
        p_value(accuracy, first, second[::-1].copy())
    with pytest.raises(DataError, match="one shape"):
        p_value(accuracy, first, second[:3])


@pytest.mark.parametrize("tests", [1, 2, 12])
def test_holm_is_that_of_statsmodels(tests: int) -> None:
    p_values = np.random.default_rng(tests).random(tests) ** 4
    np.testing.assert_allclose(paired.holm(p_values), multipletests(p_values, method="holm")[1])


def test_holm() -> None:
    # Holm 1979: sorted p times the number of tests that are left, made monotone.
    np.testing.assert_allclose(paired.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(paired.holm([0.01, np.nan, 0.6]), [0.02, np.nan, 0.6])
    assert paired.holm([]).shape == (0,)
    assert np.isnan(paired.holm([np.nan])).all()
