from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike

from common.errors import DataError
from common.scoring import ecoc

SIZES = st.tuples(st.integers(1, 4), st.integers(2, 6))


def brute_force(bits: np.ndarray) -> int:
    replicas, thresholds = bits.shape
    words = [[int(grade > k) for k in range(thresholds)] * replicas for grade in range(thresholds + 1)]
    distances = [sum(a != b for a, b in zip(word, bits.ravel(), strict=True)) for word in words]
    return distances.index(min(distances))


def code_words(grades: ArrayLike, *, replicas: int = 2, grades_count: int = 4) -> np.ndarray:
    """Code words of grades: bit k of each replica is 1 where the grade is > k."""
    word = (np.asarray(grades)[..., None] > np.arange(grades_count - 1)).astype(np.uint8)
    return np.repeat(word[..., None, :], replicas, axis=-2)


def test_code_words_of_rating() -> None:
    words = code_words(np.arange(4))
    assert words.shape == (4, 2, 3)
    assert words[:, 0].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert (words[:, 0] == words[:, 1]).all()


@given(SIZES, st.data())
def test_round_trip(size: tuple[int, int], data: st.DataObject) -> None:
    replicas, grades_count = size
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    grades = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, grades_count - 1)))
    bits = code_words(grades, replicas=replicas, grades_count=grades_count)
    assert bits.shape == (*shape, replicas, grades_count - 1)
    assert (ecoc.decode(bits) == grades).all()


@given(SIZES, st.data())
def test_decode_is_the_nearest_code_word_ties_to_the_lower_grade(
    size: tuple[int, int], data: st.DataObject
) -> None:
    replicas, grades_count = size
    bits = data.draw(hnp.arrays(np.uint8, (3, replicas, grades_count - 1), elements=st.integers(0, 1)))
    assert ecoc.decode(bits).tolist() == [brute_force(word) for word in bits]


def test_all_64_words_of_rating() -> None:
    bits = np.array(list(product([0, 1], repeat=6))).reshape(64, 2, 3)
    assert ecoc.decode(bits).tolist() == [brute_force(word) for word in bits]


@pytest.mark.parametrize("replicas", [3, 4, 5])
def test_three_replicas_correct_any_single_error(replicas: int) -> None:
    for grade, replica, threshold in product(range(4), range(replicas), range(3)):
        bits = code_words(grade, replicas=replicas)
        bits[replica, threshold] ^= 1
        assert ecoc.decode(bits) == grade


def test_with_two_replicas_a_single_error_is_corrected_or_a_tie_that_lowers_by_one() -> None:
    lowered = 0
    for grade, replica, threshold in product(range(4), range(2), range(3)):
        bits = code_words(grade)
        bits[replica, threshold] ^= 1
        answer = int(ecoc.decode(bits))
        assert answer == brute_force(bits)
        assert answer in (grade, grade - 1)
        lowered += answer == grade - 1
    # Only losing one replica of the highest "yes" ties with the grade below: 3 grades x 2 replicas of 24.
    assert lowered == 6


def test_boolean_bits_and_a_leading_shape() -> None:
    bits = np.array([[[True, True, False], [True, False, False]]] * 5).reshape(5, 1, 2, 3)
    assert ecoc.decode(bits).tolist() == [[1]] * 5


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ([[0, 1, 2]], "bits in 0..1, got 2"),
        ([[0, -1, 0]], "bits in 0..1, got -1"),
        ([[0.2, 0.9, 0.1]], "whole numbers for bits"),
        ([0, 1, 1], r"shape \(..., replicas, grades - 1\), got \(3,\)"),
        (np.zeros((4, 0, 3), dtype=int), "got"),
    ],
)
def test_other_bits_are_refused(bits: ArrayLike, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ecoc.decode(bits)


@given(SIZES, st.data())
def test_decoded_upwards_a_tie_goes_to_the_highest_of_the_nearest(
    size: tuple[int, int], data: st.DataObject
) -> None:
    replicas, grades_count = size
    bits = data.draw(hnp.arrays(np.uint8, (3, replicas, grades_count - 1), elements=st.integers(0, 1)))
    words = code_words(np.arange(grades_count), replicas=replicas, grades_count=grades_count)
    for word, upwards, lower in zip(bits, ecoc.decode_upwards(bits), ecoc.decode(bits), strict=True):
        distances = (words != word).sum(axis=(1, 2))
        nearest = np.flatnonzero(distances == distances.min())
        assert (lower, upwards) == (nearest[0], nearest[-1])


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 5)),
        elements=st.floats(0.125, 0.875, width=32),
    )
)
def test_likelihoods_of_one_replica_are_products_over_the_tasks(yes: np.ndarray) -> None:
    """Of several replicas they are those of one with the mean of their log odds."""
    odds = np.exp(np.log(yes / (1 - yes.astype(np.float64))).mean(axis=0))
    one = odds / (1 + odds)
    tasks = len(one)
    by_hand = [np.prod([p if grade > k else 1 - p for k, p in enumerate(one)]) for grade in range(tasks + 1)]
    np.testing.assert_allclose(ecoc.likelihoods(yes), by_hand / np.sum(by_hand), rtol=1e-9)


@given(st.integers(0, 3), st.floats(0.0, 0.4375, width=32))
def test_the_likeliest_grade_of_a_code_word_is_its_own(grade: int, doubt: float) -> None:
    word = np.abs(code_words(grade).astype(np.float32) - np.float32(doubt))
    found = ecoc.likelihoods(word)
    assert found.argmax() == grade
    assert found.sum() == pytest.approx(1)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        (np.array([[0.5, np.nan]]), "outside or not a number"),
        (np.array([[1.5]]), "outside"),
        (np.zeros((3, 0)), "shape"),
    ],
)
def test_what_has_no_likelihood_is_refused(probabilities: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ecoc.likelihoods(probabilities)
