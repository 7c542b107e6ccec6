import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from common.errors import DataError
from common.evaluation import roc

CONFUSION = np.array([[39, 4, 1, 0], [5, 28, 11, 0], [0, 11, 29, 4], [0, 0, 8, 36]])


def drawn(seed: int, exams: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, size=exams)
    labels[:2] = 0, 1
    return np.round(generator.random(exams), 1), labels, generator.integers(0, 4, size=(5, exams))


@given(st.integers(0, 2**32 - 1))
def test_auc_with_ties_and_weights_is_scikit_learns(seed: int) -> None:
    scores, labels, weights = drawn(seed)
    weights[:, :2] += 1
    assert roc.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    expected = [roc_auc_score(labels, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(roc.weighted_auc(scores, labels, weights), expected)


def test_auc_without_one_of_the_classes_is_nan() -> None:
    assert np.isnan(roc.auc([0.1, 0.4], [1, 1]))
    assert np.isnan(roc.auc([], []))


def test_scores_must_be_finite_and_of_one_length() -> None:
    with pytest.raises(DataError, match="finite"):
        roc.auc([0.1, np.nan], [0, 1])
    with pytest.raises(DataError, match="one score"):
        roc.auc([0.1, 0.2], [0, 1, 1])


def test_cuts_through_andersens_matrix() -> None:
    # Andersen et al. 2019: sensitivity 0.875 of 2-3 against 0-1.
    assert roc.sensitivity(CONFUSION, cut=1) == pytest.approx(0.875)
    assert roc.specificity(CONFUSION, cut=1) == pytest.approx(76 / 88)
    assert roc.youden(CONFUSION, cut=1) == pytest.approx(0.875 + 76 / 88 - 1)
    assert roc.sensitivity(CONFUSION, cut=0) == pytest.approx(1 - 5 / 132)
    stack = np.stack([CONFUSION, np.zeros((4, 4), dtype=int)])
    assert np.isnan(roc.youden(stack, cut=2)).tolist() == [False, True]
