import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation.one_vs_rest import GradeDifference, differences, one_vs_rest
from common.evaluation.roc import auc


def scored(seed: int, exams: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of four grades, and the grades: 0 common, 3 rare."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(4, p=[0.5, 0.25, 0.15, 0.1], size=exams)
    scores = generator.random((exams, 4)) + np.eye(4)[truth] * 0.6
    return scores / scores.sum(axis=1, keepdims=True), truth


@pytest.mark.parametrize("seed", range(3))
def test_means_are_scikit_learns(seed: int) -> None:
    scores, truth = scored(seed)
    got = one_vs_rest(scores, truth, np.ones((1, len(truth))))
    plain, weighted = (
        roc_auc_score(truth, scores, multi_class="ovr", average=average) for average in ("macro", "weighted")
    )
    assert got.mean.value == pytest.approx(plain)
    assert got.prevalence_weighted.value == pytest.approx(weighted)
    assert [e.value for e in got.grades] == pytest.approx(
        [roc_auc_score(truth == grade, scores[:, grade]) for grade in range(4)]
    )


def test_replicates_are_exams_drawn_again() -> None:
    scores, truth = scored(5)
    draws = bootstrap.resamples(len(truth), replicates=40, generator=np.random.default_rng(0))
    got = one_vs_rest(scores, truth, draws)
    drawn = []
    for counts in draws:
        again = np.repeat(np.arange(len(truth)), counts)
        drawn.append(roc_auc_score(truth[again], scores[again], multi_class="ovr", average="weighted"))
    expected = tuple(np.quantile(drawn, [0.025, 0.975]))
    assert (got.prevalence_weighted.low, got.prevalence_weighted.high) == pytest.approx(expected)


def test_a_grade_that_no_exam_has_is_left_out() -> None:
    scores, truth = scored(1)
    truth = np.where(truth == 3, 2, truth)
    got = one_vs_rest(scores, truth, np.ones((1, len(truth))))
    assert np.isnan(got.grades[3].value)
    assert got.mean.value == pytest.approx(np.mean([e.value for e in got.grades[:3]]))
    one = one_vs_rest(scores, np.zeros_like(truth), np.ones((1, len(truth))))
    assert np.isnan([one.mean.value, one.prevalence_weighted.value, *(e.value for e in one.grades)]).all()


def test_scores_that_are_not_finite_are_refused() -> None:
    scores, truth = scored(0)
    with pytest.raises(DataError, match="finite scores"):
        one_vs_rest(scores * np.nan, truth, np.ones((1, len(truth))))


def systems(seed: int, *, patients: int = 40, better: float = 0.0) -> tuple[np.ndarray, ...]:
    """Two systems' scores of three grades, alike within a patient; the first is ``better``."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 4)
    truth = rng.integers(0, 3, len(patient))
    hot = np.eye(3)[truth]
    effect = rng.normal(0, 1, (patients, 3))[patient]
    first = (1 + better) * hot + effect + rng.normal(0, 1, hot.shape)
    second = hot + effect + rng.normal(0, 1, hot.shape)
    return first, second, truth, patient


def compared(seed: int, *, better: float = 0.0) -> tuple[GradeDifference, ...]:
    first, second, truth, patient = systems(seed, better=better)
    rng = np.random.default_rng(seed)
    weights = bootstrap.resamples(int(patient.max()) + 1, replicates=100, generator=rng)
    return differences(first, second, truth, patient, weights, generator=rng, permutations=199)


def test_a_grades_area_by_two_systems_is_compared_by_patient() -> None:
    ps = np.array([[each.p for each in compared(seed)] for seed in range(60)])
    assert (ps <= 0.05).mean() < 0.12
    assert 0.35 < ps.mean() < 0.65
    better = compared(0, better=2.0)
    assert all(each.p < 0.05 and each.estimate.low > 0 for each in better)


def test_the_difference_is_that_of_the_areas_and_turns_with_the_systems() -> None:
    first, second, truth, patient = systems(1, better=0.5)
    weights = np.ones((1, int(patient.max()) + 1), dtype=np.int64)
    there, back = (
        differences(a, b, truth, patient, weights, generator=np.random.default_rng(0), permutations=99)
        for a, b in ((first, second), (second, first))
    )
    for grade, (one, other) in enumerate(zip(there, back, strict=True)):
        expected = auc(first[:, grade], truth == grade) - auc(second[:, grade], truth == grade)
        assert one.estimate.value == pytest.approx(expected)
        assert other.estimate.value == pytest.approx(-expected) and one.p == other.p
    same = differences(
        first, first, truth, patient, weights, generator=np.random.default_rng(0), permutations=99
    )
    assert [each.p for each in same] == [1.0] * 3


def test_a_grade_that_no_exam_has_has_no_p() -> None:
    first, second, truth, patient = systems(2)
    weights = np.ones((1, int(patient.max()) + 1), dtype=np.int64)
    found = differences(
        first, second, np.minimum(truth, 1), patient, weights, generator=np.random.default_rng(0)
    )
    assert np.isnan(found[2].p) and np.isnan(found[2].estimate.value)
