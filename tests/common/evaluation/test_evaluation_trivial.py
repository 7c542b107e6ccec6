from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from common.errors import DataError
from common.evaluation import trivial
from common.evaluation.mistakes import far_off


def commonest(labels: ArrayLike, *, grades: int) -> int:
    return trivial.commonest(np.array(labels, dtype=np.int64), grades=grades)


def tuned_cuts(counts: ArrayLike, labels: ArrayLike, *, grades: int) -> np.ndarray:
    return trivial.tuned_cuts(np.array(counts, dtype=np.float64), np.array(labels), grades=grades)


def graded(counts: ArrayLike, cuts: ArrayLike) -> np.ndarray:
    return trivial.graded(np.array(counts, dtype=np.float64), np.array(cuts, dtype=np.float64))


EXAMS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=14)


def right(counts: Sequence[int], labels: Sequence[int], cuts: Iterable[float]) -> int:
    return sum(sum(c >= cut for cut in cuts) == label for c, label in zip(counts, labels, strict=True))


@given(EXAMS)
def test_cuts_are_as_good_as_the_best_of_all(exams: list[tuple[int, int]]) -> None:
    counts, labels = zip(*exams, strict=True)
    cuts = tuned_cuts(counts, labels, grades=4)
    assert (np.diff(cuts[np.isfinite(cuts)]) >= 0).all()
    every = combinations_with_replacement([*range(8)], 3)
    assert right(counts, labels, cuts) == max(right(counts, labels, some) for some in every)
    assert graded(counts, cuts).tolist() == [sum(c >= cut for cut in cuts) for c in counts]


def test_cuts_lie_half_way() -> None:
    cuts = tuned_cuts([0, 2, 10, 20, 90, 100], [0, 0, 1, 1, 2, 3], grades=4)
    assert cuts.tolist() == [6, 55, 95]
    assert graded([0, 6, 5.9, 60, 1000], cuts).tolist() == [0, 1, 0, 2, 3]


def test_a_grade_that_never_occurs_is_never_given() -> None:
    assert tuned_cuts([0, 5], [0, 1], grades=4).tolist() == [2.5, np.inf, np.inf]
    assert tuned_cuts([3, 5], [2, 2], grades=3).tolist() == [0, 0]
    assert graded([0, 9], [0, 0]).tolist() == [2, 2]


def test_the_commonest_grade() -> None:
    assert commonest([0, 2, 2, 1], grades=4) == 2
    assert commonest([3, 1, 1, 3], grades=4) == 1


@pytest.mark.parametrize("labels", [[], [-1, 0], [4], [[0]]])
def test_labels_that_are_none_are_refused(labels: ArrayLike) -> None:
    with pytest.raises(DataError, match=r"training labels in 0..3"):
        commonest(labels, grades=4)


def test_counts_that_do_not_fit_are_refused() -> None:
    for counts in ([1], [1, -1], [1, np.nan]):
        with pytest.raises(DataError, match="a count of 0 or more for each of 2 labels"):
            tuned_cuts(counts, [0, 1], grades=2)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=20))
def test_errors_of_two_grades_and_more_the_farthest_first(exams: list[tuple[int, int]]) -> None:
    truth, answer = (np.array([row[i] for row in exams], dtype=np.int64) for i in (0, 1))
    far = [(abs(t - a), -i) for i, (t, a) in enumerate(exams) if -1 not in (t, a) and abs(t - a) >= 2]
    assert far_off(truth, answer).tolist() == [-i for _, i in sorted(far, reverse=True)]


def test_grades_of_two_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="one length"):
        far_off(np.array([0, 1]), np.array([0]))
