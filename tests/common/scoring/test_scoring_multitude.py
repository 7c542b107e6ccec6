from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike

from common.errors import DataError
from common.scoring import eoss, multitude
from common.scoring.multitude import Decision


def rating(votes: ArrayLike) -> Decision:
    return multitude.decide(np.asarray(votes), values=(4, 4), is_valid=eoss.is_valid_pair)


def plurality(column: Sequence[int], count: int) -> int:
    return max(range(count), key=lambda value: (column.count(value), -value))


def brute_force(
    exam: Sequence[Sequence[int]], values: Sequence[int], is_valid: Callable[[tuple[int, ...]], bool]
) -> tuple[tuple[int, ...], int, int, bool, bool]:
    columns = [list(column) for column in zip(*exam, strict=True)]
    weights = {
        c: prod(column.count(g) for column, g in zip(columns, c, strict=True))
        for c in product(*map(range, values))
        if is_valid(c)
    }
    answer = max(weights, key=lambda c: (weights[c], [-g for g in c]))
    runner_up = max((w for c, w in weights.items() if c != answer), default=0)
    own = tuple(plurality(column, n) for column, n in zip(columns, values, strict=True))
    tie = sum(weight == weights[answer] for weight in weights.values()) > 1
    return answer, weights[answer], runner_up, weights[answer] == 0 or answer != own, tie


def assert_like_brute_force(
    votes: np.ndarray, values: Sequence[int], is_valid: Callable[[tuple[int, ...]], bool]
) -> None:
    got = multitude.decide(votes, values=values, is_valid=is_valid)
    rows = zip(
        map(tuple, got.decision.tolist()),
        got.weight.tolist(),
        got.runner_up_weight.tolist(),
        got.contested.tolist(),
        got.tie.tolist(),
        strict=True,
    )
    assert list(rows) == [brute_force(exam, values, is_valid) for exam in votes.tolist()]


@given(
    hnp.arrays(
        np.int8, st.tuples(st.integers(0, 6), st.integers(1, 7), st.just(2)), elements=st.integers(0, 3)
    )
)
def test_ratings_case_against_brute_force(votes: np.ndarray) -> None:
    assert_like_brute_force(votes, (4, 4), eoss.is_valid_pair)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_any_measurements_values_and_predicate_against_brute_force(
    values: list[int], models: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    votes = np.stack([generator.integers(0, n, size=(4, models)) for n in values], axis=-1)
    combinations = list(product(*map(range, values)))
    allowed = {c for c in combinations if generator.random() < 0.5} or {combinations[-1]}
    assert_like_brute_force(votes, tuple(values), allowed.__contains__)


def test_many_exams_cross_the_chunks() -> None:
    votes = np.random.default_rng(1).integers(0, 4, size=(90_000, 5, 2), dtype=np.int8)
    whole = rating(votes)
    edge = slice(40_000, 40_700)
    assert_like_brute_force(votes[edge], (4, 4), eoss.is_valid_pair)
    assert (whole.decision[edge] == rating(votes[edge]).decision).all()
    assert eoss.is_valid(*whole.decision.T).all()


def test_no_hypertrophy_but_flow_in_every_vote_gives_0_0_contested() -> None:
    # The paper's rule; the released code returns an invalid pair here.
    got = rating([[[0, 1], [0, 2], [0, 1], [0, 3], [0, 1]]])
    assert got.decision.tolist() == [[0, 0]]
    assert got.weight.tolist() == [0]
    assert got.contested.tolist() == [True]


def test_unanimous_votes_are_not_contested() -> None:
    got = rating([[[2, 3]] * 5])
    assert (got.decision.tolist(), got.weight.tolist(), got.runner_up_weight.tolist()) == (
        [[2, 3]],
        [25],
        [0],
    )
    assert not got.contested.any()


def test_a_tie_goes_to_the_lexicographically_first() -> None:
    # 1 and 2 are voted twice each for both measurements: four combinations weigh 4.
    got = rating([[[2, 1], [1, 2], [2, 2], [1, 1]]])
    assert got.decision.tolist() == [[1, 1]]
    assert got.runner_up_weight.tolist() == [4]
    assert not got.contested.any()


@given(
    hnp.arrays(
        np.int8, st.tuples(st.integers(0, 6), st.integers(1, 7), st.just(2)), elements=st.integers(0, 2)
    )
)
def test_a_plurality_is_a_tie_where_two_grades_have_the_most_votes(votes: np.ndarray) -> None:
    def tied(column: Sequence[int]) -> bool:
        counts = sorted((column.count(value) for value in range(3)), reverse=True)
        return counts[0] == counts[1]

    expected = [any(tied(list(column)) for column in zip(*exam, strict=True)) for exam in votes.tolist()]
    assert multitude.majority_ties(votes, values=(3, 3)).tolist() == expected


def test_with_two_models_every_disagreement_is_a_tie() -> None:
    votes = np.array([[[1, 1], [2, 1]], [[2, 2], [2, 2]], [[3, 0], [1, 2]]])
    assert rating(votes).tie.tolist() == [True, False, True]


def test_one_valid_combination_is_no_tie_even_without_votes() -> None:
    got = multitude.decide(np.array([[[0]]]), values=(2,), is_valid=lambda combination: combination == (1,))
    assert (got.weight.tolist(), got.tie.tolist()) == ([0], [False])


def test_an_answer_that_leaves_a_plurality_is_contested() -> None:
    # Hypertrophy 0 leads 3 to 2, flow 2 leads 5 to 0: only (1, 2) has weight.
    got = rating([[[0, 2], [0, 2], [0, 2], [1, 2], [1, 2]]])
    assert got.decision.tolist() == [[1, 2]]
    assert got.weight.tolist() == [10]
    assert got.contested.tolist() == [True]


def test_majority_decides_each_measurement_by_itself() -> None:
    votes = np.array([[[0, 2], [0, 2], [1, 1]], [[3, 0], [1, 1], [2, 2]]])
    assert multitude.majority(votes, values=(4, 4)).tolist() == [[0, 2], [1, 0]]


def test_no_exams() -> None:
    got = rating(np.zeros((0, 5, 2), dtype=int))
    assert got.decision.shape == (0, 2)
    assert got.weight.shape == got.contested.shape == (0,)


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        (np.zeros((3, 5), dtype=int), r"shape \(exams, models >= 1, measurements = 2\), got \(3, 5\)"),
        (np.zeros((3, 5, 3), dtype=int), "got"),
        (np.zeros((3, 0, 2), dtype=int), "models >= 1"),
        (np.zeros((3, 5, 2)), "whole numbers for votes, got float64"),
        (np.full((1, 1, 2), 4), r"votes in 0\.\.3, got 4 at index \(0, 0, 0\)"),
        (np.full((1, 1, 2), -1), r"votes in 0\.\.3, got -1"),
    ],
)
def test_other_votes_are_refused(votes: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rating(votes)


def test_votes_beyond_the_smaller_measurement_are_refused() -> None:
    with pytest.raises(DataError, match=r"votes of measurement 1 in 0\.\.1, got 3"):
        multitude.decide(np.full((2, 3, 2), 3), values=(4, 2), is_valid=lambda _: True)


def test_there_must_be_a_valid_combination() -> None:
    with pytest.raises(DataError, match="is_valid refuses all"):
        multitude.decide(np.zeros((1, 1, 2), dtype=int), values=(4, 4), is_valid=lambda _: False)


@given(
    hnp.arrays(
        np.int8, st.tuples(st.integers(0, 6), st.integers(1, 5), st.just(2)), elements=st.integers(0, 3)
    )
)
def test_votes_that_are_shared_with_nobody_decide_as_votes(votes: np.ndarray) -> None:
    shares = [np.eye(4)[votes[:, :, measurement]] for measurement in range(2)]
    shared, whole = multitude.decide_shared(shares, is_valid=eoss.is_valid_pair), rating(votes)
    np.testing.assert_array_equal(shared.decision, whole.decision)
    np.testing.assert_array_equal(shared.weight, whole.weight)
    np.testing.assert_array_equal(shared.runner_up_weight, whole.runner_up_weight)
    np.testing.assert_array_equal(shared.contested, whole.contested)
    np.testing.assert_array_equal(shared.tie, whole.tie)
    np.testing.assert_array_equal(multitude.majority_shared(shares), multitude.majority(votes, values=(4, 4)))


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_shared_votes_answer_the_valid_pair_of_the_largest_product(models: int, seed: int) -> None:
    shares = [np.random.default_rng(seed + m).dirichlet(np.ones(4), size=(20, models)) for m in range(2)]
    got = multitude.decide_shared(shares, is_valid=eoss.is_valid_pair)
    h, v = (each.sum(axis=1) for each in shares)
    weights = h[:, :, None] * v[:, None, :]
    weights[:, 0, 1:] = 0
    np.testing.assert_allclose(got.weight, weights.max(axis=(1, 2)))
    np.testing.assert_allclose(weights[np.arange(20), got.decision[:, 0], got.decision[:, 1]], got.weight)
