import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score

from common.errors import DataError
from common.evaluation.agreement import accuracy, balanced_accuracy, confusion, in_words, kappa, spearman

# Andersen et al. 2019, test set. The kappas that the paper prints do not follow from this matrix.
ANDERSEN = np.array([[39, 4, 1, 0], [5, 28, 11, 0], [0, 11, 29, 4], [0, 0, 8, 36]])
GRADES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_golden_values_of_andersens_matrix() -> None:
    assert accuracy(ANDERSEN) == 0.75
    assert round(float(kappa(ANDERSEN)), 3) == 0.667
    assert round(float(kappa(ANDERSEN, weights="linear")), 3) == 0.794
    assert round(float(kappa(ANDERSEN, weights="quadratic")), 3) == 0.891
    assert balanced_accuracy(ANDERSEN) == pytest.approx(0.75)


def test_golden_value_of_andersens_binary_table() -> None:
    healthy = ANDERSEN.reshape(2, 2, 2, 2).sum(axis=(1, 3))
    assert round(float(kappa(healthy)), 2) == 0.74


@given(GRADES)
def test_against_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    matrix = confusion(truth, predicted, 4)
    assert matrix.sum() == len(pairs)
    assert accuracy(matrix) == pytest.approx(accuracy_score(truth, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert balanced_accuracy(matrix) == pytest.approx(balanced_accuracy_score(truth, predicted))
        for weights in (None, "linear", "quadratic"):
            expected = cohen_kappa_score(truth, predicted, labels=range(4), weights=weights)
            assert kappa(matrix, weights=weights) == pytest.approx(expected, nan_ok=True)


@given(GRADES)
def test_spearman_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    got = spearman(confusion(truth, predicted, 4))
    if len(set(truth)) == 1 or len(set(predicted)) == 1:
        assert np.isnan(got)
    else:
        assert got == pytest.approx(spearmanr(truth, predicted).statistic)


@given(st.integers(0, 2**32 - 1))
def test_a_stack_gives_what_each_matrix_gives(seed: int) -> None:
    stack = np.random.default_rng(seed).integers(0, 3, size=(2, 5, 3, 3))
    for metric in (accuracy, balanced_accuracy, kappa, spearman, lambda c: kappa(c, weights="linear")):
        each = [[metric(matrix) for matrix in row] for row in stack]
        np.testing.assert_allclose(np.asarray(metric(stack)), np.array(each))


def test_what_cannot_be_computed_is_nan() -> None:
    assert np.isnan(
        np.array([accuracy(np.zeros((4, 4))), kappa(np.zeros((4, 4))), balanced_accuracy(np.zeros((2, 2)))])
    ).all()
    one_grade = np.diag([0, 7, 0, 0])
    assert accuracy(one_grade) == balanced_accuracy(one_grade) == 1
    assert np.isnan(kappa(one_grade, weights="linear"))


def test_perfect_and_chance() -> None:
    assert kappa(np.diag([3, 4, 5]), weights="quadratic") == 1
    assert kappa(np.outer([1, 2, 3], [2, 2, 2]), weights="linear") == pytest.approx(0)


def test_confusion_has_the_truth_in_rows() -> None:
    assert confusion([0, 0, 1], [1, 1, 0], 2).tolist() == [[0, 2], [1, 0]]
    assert confusion([], [], 3).sum() == 0


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 1], [0], "one length"),
        ([0, -1], [0, 1], r"0\.\.3 as truth, got int64 in -1"),
        ([0, 1], [0, 4], "as predicted"),
        ([0.0, np.nan], [0, 1], "leave out exams"),
    ],
)
def test_other_grades_are_refused(truth: ArrayLike, predicted: ArrayLike, message: str) -> None:
    with pytest.raises(DataError, match=message):
        confusion(truth, predicted, 4)


def test_other_matrices_and_weights_are_refused() -> None:
    with pytest.raises(DataError, match="confusion matrices"):
        accuracy(np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (-0.01, "poor"), (0.0, "slight"), (0.20, "slight"), (0.21, "fair"), (0.4, "fair"), (0.404, "fair"),
        (0.41, "moderate"), (0.61, "substantial"), (0.804, "substantial"), (0.81, "almost perfect"),
        (1.0, "almost perfect"), (float("nan"), ""), (None, ""),
    ],
)  # fmt: skip
def test_a_kappa_has_the_word_of_landis_and_koch(value: float | None, word: str) -> None:
    assert in_words(value) == word
