import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from statsmodels.stats.power import TTestPower

from common.evaluation.seeds import over_seeds, seeds_needed


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=7))
def test_t_and_signs_by_hand(values: list[float]) -> None:
    differences = np.array(values)
    got = over_seeds(differences)
    assert got.mean == pytest.approx(differences.mean())
    assert got.sd == pytest.approx(differences.std(ddof=1))
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(values))]
    assert got.p_signs == pytest.approx(np.mean(np.array(sums) >= sums[0] - 1e-12))
    if got.sd > 1e-9:
        assert got.p_t == pytest.approx(ttest_1samp(differences, 0).pvalue, abs=1e-9)


def test_eight_seeds_of_one_sign_have_the_smallest_p_of_signs() -> None:
    assert over_seeds(np.arange(1.0, 9.0)).p_signs == 2 / 2**8


def test_edges() -> None:
    one = over_seeds(np.array([0.1]))
    assert one.mean == 0.1
    assert all(map(math.isnan, (one.sd, one.p_t, one.p_signs)))
    assert over_seeds(np.zeros(3)).p_t == over_seeds(np.zeros(3)).p_signs == 1
    assert math.isnan(over_seeds(np.ones(3)).p_t)
    assert over_seeds(np.ones(3)).p_signs == 2 / 2**3
    assert seeds_needed(math.nan, smallest=0.1, alpha=0.05, power=0.8) is None
    assert seeds_needed(0.0, smallest=0.1, alpha=0.05, power=0.8) is None
    assert seeds_needed(1.0, smallest=1e-3, alpha=0.05, power=0.8) is None


def test_golden_value_of_cohen() -> None:
    """Cohen 1988, table 2.4.1: d = 0.5 of a difference, two-sided 0.05, power 0.80: 34 pairs by the exact t."""
    assert seeds_needed(2.0, smallest=1.0, alpha=0.05, power=0.8) == 34


@pytest.mark.parametrize(("sd", "alpha", "power"), [(0.02, 0.05, 0.8), (0.04, 0.0125, 0.8), (0.1, 0.01, 0.9)])
def test_seeds_needed_are_statsmodels(sd: float, alpha: float, power: float) -> None:
    expected = TTestPower().solve_power(
        effect_size=0.05 / sd, alpha=alpha, power=power, alternative="two-sided"
    )
    assert seeds_needed(sd, smallest=0.05, alpha=alpha, power=power) == math.ceil(expected)


def test_as_many_seeds_as_were_said_find_the_difference_as_often_as_was_said() -> None:
    seeds = seeds_needed(0.04, smallest=0.05, alpha=0.05, power=0.8)
    assert seeds is not None
    generator = np.random.default_rng(0)
    found = [over_seeds(generator.normal(0.05, 0.04, seeds)).p_t <= 0.05 for _ in range(600)]
    assert 0.78 < np.mean(found) < 0.92
