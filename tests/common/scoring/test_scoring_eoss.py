import numpy as np
import pytest

from common.errors import DataError
from common.scoring import eoss

PAIRS = [(h, v) for h in range(4) for v in range(4)]


def test_thirteen_of_the_sixteen_pairs_are_valid() -> None:
    h, v = np.array(PAIRS).T
    valid = eoss.is_valid(h, v)
    assert valid.sum() == 13
    assert [pair for pair, ok in zip(PAIRS, valid, strict=True) if not ok] == [(0, 1), (0, 2), (0, 3)]
    assert [eoss.is_valid_pair(pair) for pair in PAIRS] == valid.tolist()


def test_a_grade_out_of_range_is_not_valid() -> None:
    assert not eoss.is_valid([-1, 4, 2, 2], [0, 0, -1, 4]).any()


def test_combined_is_the_larger_grade() -> None:
    h, v = np.array([pair for pair in PAIRS if eoss.is_valid_pair(pair)]).T
    assert eoss.combined(h, v).tolist() == np.maximum(h, v).tolist()


def test_combined_keeps_the_shape_and_takes_small_types() -> None:
    h = np.array([[1, 2], [3, 0]], dtype=np.int8)
    v = np.array([[3, 1], [0, 0]], dtype=np.uint8)
    assert eoss.combined(h, v).tolist() == [[3, 2], [3, 0]]
    assert eoss.combined(2, 3) == 3
    assert eoss.combined([1, 2, 3], 1).tolist() == [1, 2, 3]
    assert eoss.combined([], []).shape == (0,)


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (0, 3)])
def test_combined_refuses_an_impossible_pair_and_says_where(pair: tuple[int, int]) -> None:
    h, v = np.array([(2, 1), pair, pair]).T
    with pytest.raises(DataError, match=rf"hypertrophy 0 with vascularity {pair[1]} at index \(1,\)"):
        eoss.combined(h, v)


@pytest.mark.parametrize("pair", [(-1, 0), (4, 0), (1, 4), (1, -1)])
def test_combined_refuses_a_grade_out_of_range(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"in 0\.\.3, got -?\d at index 0"):
        eoss.combined([pair[0]], [pair[1]])


def test_combined_refuses_fractions_and_missing_values() -> None:
    with pytest.raises(DataError, match="whole numbers for hypertrophy, got float64"):
        eoss.combined([1.0, np.nan], [0, 0])


def test_a_pair_of_which_one_is_missing_has_no_combined_score_and_the_others_have_theirs() -> None:
    h, v = np.meshgrid([-1, 0, 1, 2, 3], [-1, 0, 1, 2, 3])
    found = eoss.combined_or_missing(h, v)
    missing = (h == -1) | (v == -1)
    assert (found[missing] == -1).all()
    valid = eoss.is_valid(h, v)
    np.testing.assert_array_equal(found[valid], eoss.combined(h[valid], v[valid]))
