from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import trim_mean

from common.aggregation.mean import InMemory, Weighted, weighted_mean
from common.aggregation.robust import (
    krum,
    krum_scores,
    krum_selection,
    median,
    squared_distances,
    trimmed_mean,
)
from common.errors import CampaignError, ConfigurationError

Values = NDArray[np.float32]
seeds = st.integers(0, 10_000)


def _values(seed: int, sites: int, size: int) -> Values:
    """Rows on very different scales, with ties."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(sites, size)) * 10.0 ** rng.integers(-4, 3, size=size)
    return np.where(rng.random((sites, size)) < 0.2, 0.5, values).astype(np.float32)


def _weighted(values: Values) -> list[Weighted]:
    """Updates of unequal numbers of exams, which no rule here may look at."""
    return [Weighted(source=InMemory(row), num_examples=1 + 7 * i) for i, row in enumerate(values)]


def _clustered(seed: int, honest: int, attackers: int, size: int) -> tuple[Values, Values]:
    """Honest updates near each other, and attackers who agree on one point far away."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=size)
    near = (centre + 0.1 * rng.normal(size=(honest, size))).astype(np.float32)
    far = np.tile(centre + rng.choice([-1.0, 1.0], size=size) * 100, (attackers, 1)).astype(np.float32)
    return near, far


@given(seeds, st.integers(1, 12), st.integers(1, 60))
def test_median_is_numpys_in_float64(seed: int, sites: int, size: int) -> None:
    values = _values(seed, sites, size)
    expected = np.median(values.astype(np.float64), axis=0).astype(np.float32)
    np.testing.assert_array_equal(median(_weighted(values), size=size), expected)


@given(seeds, st.integers(1, 20), st.integers(1, 60), st.floats(0.01, 0.499))
def test_trimmed_mean_is_scipys(seed: int, sites: int, size: int, share: float) -> None:
    values = _values(seed, sites, size)
    if int(share * sites) == 0:
        with pytest.raises(CampaignError, match="in a trimmed share"):
            trimmed_mean(_weighted(values), share=share, size=size)
        return
    expected = trim_mean(values.astype(np.float64), share, axis=0)
    np.testing.assert_allclose(
        trimmed_mean(_weighted(values), share=share, size=size), expected, rtol=1e-6, atol=1e-7
    )


@given(seeds, st.integers(5, 9), st.integers(1, 60), st.integers(1, 80))
def test_order_of_sites_and_size_of_chunks_change_no_bit(
    seed: int, sites: int, size: int, chunk: int
) -> None:
    values = _values(seed, sites, size)
    shuffled = values[np.random.default_rng(seed).permutation(sites)]
    rules: list[Callable[[Values, int], Values]] = [
        lambda rows, step: median(_weighted(rows), size=size, chunk=step),
        lambda rows, step: trimmed_mean(_weighted(rows), share=0.25, size=size, chunk=step),
    ]
    for rule in rules:
        np.testing.assert_array_equal(rule(values, 1 << 14), rule(shuffled, chunk))


def test_not_even_cancelling_values_make_the_order_of_sites_visible() -> None:
    rng = np.random.default_rng(0)
    half = rng.normal(size=20) * 2.0 ** rng.integers(
        0, 60, size=20
    )  # rounding in float64 is all that is left
    column = np.concatenate([half, -half]).astype(np.float32)
    results = {
        float(trimmed_mean(_weighted(rng.permutation(column)[:, None]), share=0.1, size=1)[0])
        for _ in range(50)
    }
    assert len(results) == 1


@given(seeds, st.integers(1, 4), st.integers(0, 3), st.integers(1, 40), st.sampled_from([1e6, -1e6, 1e30]))
def test_a_minority_cannot_move_median_or_trimmed_mean_out_of_the_honest_range(
    seed: int, attackers: int, more: int, size: int, value: float
) -> None:
    honest = _values(seed, attackers + 1 + more, size)
    updates = _weighted(np.vstack([np.full((attackers, size), value, dtype=np.float32), honest]))
    low, high = honest.min(axis=0), honest.max(axis=0)
    results = [
        median(updates, size=size),
        trimmed_mean(updates, share=(attackers + 0.5) / len(updates) * 0.999, size=size),
    ]
    for result in results:
        assert ((low <= result) & (result <= high)).all()
    mean = weighted_mean(updates, size=size)
    assert not ((low <= mean) & (mean <= high)).all()


@given(seeds, st.integers(0, 3), st.integers(0, 3), st.integers(2, 40), st.integers(1, 50))
def test_krum_takes_an_honest_update_though_attackers_agree(
    seed: int, attackers: int, more: int, size: int, chunk: int
) -> None:
    honest, far = _clustered(seed, attackers + 3 + more, attackers, size)
    updates = _weighted(np.vstack([far, honest]))
    chosen = krum_selection(updates, byzantine=attackers, size=size, chunk=chunk)
    assert len(chosen) == 1 and chosen[0] >= attackers
    np.testing.assert_array_equal(
        krum(updates, byzantine=attackers, size=size, chunk=chunk), honest[chosen[0] - attackers]
    )
    most = krum_selection(updates, byzantine=attackers, size=size, selected=len(honest), chunk=chunk)
    assert most == tuple(range(attackers, len(updates)))


@given(seeds, st.integers(3, 9), st.integers(1, 60), st.integers(1, 80))
def test_distances_are_those_of_differences_in_float64(seed: int, sites: int, size: int, chunk: int) -> None:
    values = _values(seed, sites, size).astype(np.float64)
    expected = ((values[:, None] - values[None]) ** 2).sum(axis=2)
    found = squared_distances(_weighted(values.astype(np.float32)), size=size, chunk=chunk)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(seeds, st.integers(1, 3), st.integers(0, 3), st.integers(2, 30))
def test_krum_follows_its_sites_when_their_order_changes(
    seed: int, byzantine: int, more: int, size: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(2 * byzantine + 3 + more, size)).astype(np.float32)
    order = np.random.default_rng(seed + 1).permutation(len(values))
    for selected in (1, 2, byzantine + 2):
        here = krum_selection(_weighted(values), byzantine=byzantine, size=size, selected=selected)
        there = krum_selection(_weighted(values[order]), byzantine=byzantine, size=size, selected=selected)
        assert set(here) == {int(order[i]) for i in there}


def test_krum_by_hand() -> None:
    # On a line at 0, 1, 3, 6, 10 with f = 1, each is judged by its n - f - 2 = 2 nearest: squares 1 + 9,
    # 1 + 4, 4 + 9, 9 + 16, 16 + 49.
    values = np.array([[0.0], [1.0], [3.0], [6.0], [10.0]], dtype=np.float32)
    updates = _weighted(values)
    scores = krum_scores(squared_distances(updates, size=1), byzantine=1)
    np.testing.assert_array_equal(scores, [10, 5, 13, 25, 65])
    np.testing.assert_array_equal(krum(updates, byzantine=1, size=1), [1.0])
    np.testing.assert_array_equal(krum(updates, byzantine=1, size=1, selected=2), [0.5])
    np.testing.assert_array_equal(krum(updates, byzantine=1, size=1, selected=4), [(0 + 1 + 3 + 6) / 4])


def test_krums_ties_go_to_the_earlier_site() -> None:
    square = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0], [1, 1]], dtype=np.float32)
    assert krum_selection(_weighted(square), byzantine=1, size=2) == (0,)
    assert krum_selection(_weighted(square[::-1].copy()), byzantine=1, size=2) == (0,)
    corners = np.tile(np.array([[0, 1], [1, 0]], dtype=np.float32), (40, 1))
    assert krum_selection(_weighted(corners), byzantine=1, size=2, selected=3) == (0, 1, 2)


def test_sites_that_did_not_train_have_no_vote() -> None:
    nothing = Weighted(source=InMemory(np.full(2, 1e9, dtype=np.float32)), num_examples=0)
    updates = [nothing, *_weighted(np.array([[1, 1], [2, 2], [9, 9]], dtype=np.float32)), nothing]
    np.testing.assert_array_equal(median(updates, size=2), [2, 2])
    np.testing.assert_array_equal(trimmed_mean(updates, share=0.34, size=2), [2, 2])
    assert krum_selection(updates, byzantine=0, size=2) == (1,)
    for empty in ([], [nothing]):
        np.testing.assert_array_equal(median(empty, size=2), [0, 0])
        np.testing.assert_array_equal(trimmed_mean(empty, share=0.2, size=2), [0, 0])
        np.testing.assert_array_equal(krum(empty, byzantine=1, size=2), [0, 0])


def test_too_few_sites_for_the_promise_are_refused() -> None:
    updates = _weighted(_values(0, 4, 3))
    with pytest.raises(CampaignError, match="at least 5 updates for Krum with 1 attackers"):
        krum(updates, byzantine=1, size=3)
    with pytest.raises(CampaignError, match="at least 5 updates"):
        krum(updates, byzantine=0, selected=5, size=3)
    with pytest.raises(CampaignError, match=r"got 0\.2 of 4 updates"):
        trimmed_mean(updates, share=0.2, size=3)
    assert len(trimmed_mean(updates, share=0.25, size=3)) == 3


@pytest.mark.parametrize("share", [-0.1, 0.0, 0.5, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match=r"\(0, 0.5\)"):
        trimmed_mean(_weighted(_values(0, 4, 3)), share=share, size=3)


def test_krums_numbers_are_checked() -> None:
    for byzantine, selected in ((-1, 1), (0, 0)):
        with pytest.raises(ConfigurationError, match="byzantine >= 0"):
            krum(_weighted(_values(0, 9, 3)), byzantine=byzantine, selected=selected, size=3)
