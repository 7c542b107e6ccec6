import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.aggregation.mean import InMemory
from common.aggregation.outliers import outlying, update_norm
from common.errors import ConfigurationError


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 60))
def test_norm_is_numpys_whatever_the_chunk(seed: int, size: int, chunk: int) -> None:
    values = np.random.default_rng(seed).normal(size=60).astype(np.float32)
    expected = float(np.linalg.norm(values[:size].astype(np.float64)))
    assert update_norm(InMemory(values), size=size, chunk=chunk) == pytest.approx(expected, rel=1e-12)


def test_norm_of_the_largest_numbers_is_finite() -> None:
    largest = np.full(1000, np.finfo(np.float32).max, dtype=np.float32)
    assert math.isfinite(update_norm(InMemory(largest), size=1000))


def test_a_site_far_above_the_others_is_named_with_the_figures() -> None:
    norms = {"north": 1.0, "south": 1.1, "east": 0.9, "west": 40.0}
    assert outlying(norms, tolerance=6.0) == {
        "west": "the update of west has norm 40, the median of 4 sites is 1.05 and the limit 4"
    }


def test_small_updates_and_updates_of_nothing_are_let_pass() -> None:
    assert outlying({"a": 1.0, "b": 1.1, "c": 0.9, "d": 1.0, "e": 1e-6, "f": 0.0}, tolerance=6.0) == {}


def test_three_sites_say_nothing_about_one_of_them() -> None:
    assert outlying({"a": 1.0, "b": 1.0, "c": 1e9, "d": 0.0}, tolerance=1.0) == {}


def test_sites_that_agree_exactly_leave_room_for_an_honest_difference() -> None:
    norms = dict.fromkeys("abcde", 2.0)
    assert outlying({**norms, "f": 7.0}, tolerance=6.0) == {}
    assert set(outlying({**norms, "f": 8.0}, tolerance=6.0)) == {"f"}


@given(
    st.lists(st.floats(0.5, 2.0), min_size=4, max_size=12),
    st.floats(-20, 20),
    st.integers(1, 5),
    st.floats(2.0, 8.0),
)
def test_scale_changes_nothing_and_a_minority_of_giants_is_found(
    honest: list[float], log_scale: float, giants: int, tolerance: float
) -> None:
    assume(giants < len(honest) / 2)
    scale = math.exp(log_scale)
    norms = {f"honest{i}": scale * value for i, value in enumerate(honest)}
    norms |= {f"giant{i}": scale * 1e9 * (i + 1) for i in range(giants)}
    assert {site for site in outlying(norms, tolerance=tolerance) if site.startswith("giant")} == {
        f"giant{i}" for i in range(giants)
    }
    assert set(outlying(norms, tolerance=tolerance)) == set(
        outlying({site: value / scale for site, value in norms.items()}, tolerance=tolerance)
    )


def test_honest_sites_are_seldom_refused_and_attackers_mostly_are() -> None:
    """Five sites whose norms scatter by a third: at a tolerance of 6, under 1 % of rounds refuse one of them.

    The fifth is missed in a quarter of rounds at 20 times its norm: among four others, the spread is uncertain.
    """
    rng = np.random.default_rng(0)
    honest = np.exp(0.3 * rng.normal(size=(1000, 5)))
    attacked = honest * [1, 1, 1, 1, 20]

    def rounds_with_refusals(norms: np.ndarray) -> int:
        return sum(
            bool(outlying({str(site): float(v) for site, v in enumerate(row)}, tolerance=6.0))
            for row in norms
        )

    assert rounds_with_refusals(honest) < 10
    assert 700 < rounds_with_refusals(attacked) < 820


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_a_tolerance_must_be_positive(tolerance: float) -> None:
    with pytest.raises(ConfigurationError, match="tolerance > 0"):
        outlying({}, tolerance=tolerance)
