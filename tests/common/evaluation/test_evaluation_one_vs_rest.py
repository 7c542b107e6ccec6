import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation.one_vs_rest import one_vs_rest


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
