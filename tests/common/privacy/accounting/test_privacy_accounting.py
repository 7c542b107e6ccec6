import math
from functools import partial

import pytest
from dp_accounting import (
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigurationError, VerificationError
from common.privacy.accounting.accounting import (
    PrivateSteps,
    delta,
    epsilon,
    gaussian_delta,
    gaussian_epsilon,
    merge,
    noise_multiplier,
)
from common.privacy.accounting.adjacency import group_epsilon
from tests.marks import SOAK_CI
from tests.privacy_oracles import epsilon_prv, epsilon_replaced


def steps(sample_rate: float, sigma: float, count: int) -> PrivateSteps:
    return PrivateSteps(sample_rate=sample_rate, noise_multiplier=sigma, count=count)


KINDS = st.builds(steps, st.floats(0.05, 0.9), st.floats(1.0, 8.0), st.integers(1, 200))
few = settings(max_examples=4, deadline=None)


@pytest.mark.parametrize(
    ("sample_rate", "sigma", "count", "at", "low", "high"),
    [
        (1, 1, 1, 1e-5, 4.3765, 4.3775),
        (0.2, 1, 100, 1e-5, 14.52, 14.53),
        (0.2, 1, 100, 1e-3, 10.598, 10.61),
        (0.2, 1, 6000, 1e-5, 241.4, 242),
        (0.05, 1.5, 1000, 1e-6, 6.189, 6.21),
        (0.2, 1.44, 100, 1e-5, 8.025, 8.035),
    ],
)
def test_published_values(
    sample_rate: float, sigma: float, count: int, at: float, low: float, high: float
) -> None:
    released = [steps(sample_rate, sigma, count)]
    value = epsilon(released, delta=at)
    assert low <= value <= high
    assert delta(released, epsilon=value) == pytest.approx(at, rel=1e-3)


@pytest.mark.soak
def test_the_second_opinion_agrees_from_above() -> None:
    for kind in (steps(0.2, 1, 100), steps(0.05, 1.5, 1000), steps(1, 1, 1), steps(0.2, 1, 6000)):
        ours, theirs = epsilon([kind], delta=1e-5), epsilon_prv([kind], delta=1e-5)
        assert ours * 0.999 <= theirs <= ours * 1.013 + 0.02
    mixed = [steps(0.2, 1, 50), steps(1, 3, 10), steps(0.1, 2, 100)]
    assert epsilon_prv(mixed, delta=1e-5) == pytest.approx(epsilon(mixed, delta=1e-5), rel=0.02)


@pytest.mark.parametrize(
    ("target", "sigma", "mu"),
    [
        pytest.param(8, 1.44, 1.666, marks=pytest.mark.soak),
        pytest.param(3, 2.98, 0.719, marks=SOAK_CI),
        (1, 7.63, 0.268),
    ],
)
def test_noise_for_a_budget(target: float, sigma: float, mu: float) -> None:
    """One network, sample rate 0.2, 100 steps, and the mu of the whole cohort, both at delta 1e-5."""
    found = noise_multiplier(target, sample_rate=0.2, count=100, delta=1e-5)
    assert found == pytest.approx(sigma, abs=0.01)
    assert epsilon([steps(0.2, found, 100)], delta=1e-5) <= target
    assert epsilon([steps(0.2, found - 1e-3, 100)], delta=1e-5) > target
    whole = noise_multiplier(target, sample_rate=1, count=60, delta=1e-5)
    assert math.sqrt(60) / whole == pytest.approx(mu, abs=1e-3)
    assert epsilon([steps(1, whole, 60)], delta=1e-5) <= target
    assert epsilon([steps(1, whole - 1e-3, 60)], delta=1e-5) > target


def test_ways_to_book_too_little() -> None:
    """What runs cost that were booked as sample rate 0.2, sigma 1, 100 steps: 14.5."""
    assert epsilon([steps(1, 1, 20)], delta=1e-5) == pytest.approx(28.4, abs=0.05)  # 20 shuffled epochs
    assert epsilon([steps(0.6, 1, 100)], delta=1e-5) == pytest.approx(49, abs=0.5)  # oversampled to 0.6
    assert epsilon([steps(0.25, 1, 100)], delta=1e-5) > 18  # drop_last: 4 batches of 5
    assert epsilon([steps(0.2, 1.44, 100)] * 12, delta=1e-5) == pytest.approx(
        36, abs=0.5
    )  # best of 12 trials


@few
@given(st.floats(0.02, 30.0), st.floats(1e-8, 0.1))
def test_whole_cohort_is_the_closed_form_and_its_inverse(mu: float, at: float) -> None:
    value = epsilon([steps(1, 1 / mu, 1)], delta=at)
    assert value == pytest.approx(gaussian_epsilon(mu, delta=at))
    if value > 0:
        assert gaussian_delta(mu, epsilon=value) == pytest.approx(at, rel=1e-6)


def test_the_library_alone_says_the_same() -> None:
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0)), 60))
    accountant.compose(GaussianDpEvent(4.0), 5)
    ours = epsilon([steps(0.1, 2, 60), steps(1, 4, 5)], delta=1e-5)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


@few
@given(st.floats(0.05, 0.95), st.floats(0.5, 5.0), st.sampled_from([1e-3, 1e-5]))
def test_one_sampled_step_is_never_below_its_closed_form(sample_rate: float, sigma: float, at: float) -> None:
    """One sampled Gaussian: delta(eps) = q delta_whole(log(1 + (e^eps - 1) / q)) (Steinke 2022, 2210.00597)."""
    whole = gaussian_epsilon(1 / sigma, delta=at / sample_rate)
    exact = math.log1p(sample_rate * math.expm1(whole))
    assert exact - 1e-6 <= epsilon([steps(sample_rate, sigma, 1)], delta=at) <= exact + 2e-3


@few
@given(KINDS)
def test_more_noise_fewer_steps_and_fewer_patients_cost_less(kind: PrivateSteps) -> None:
    value = epsilon([kind], delta=1e-5)
    more_noise = steps(kind.sample_rate, kind.noise_multiplier * 1.2, kind.count)
    more_steps = steps(kind.sample_rate, kind.noise_multiplier, kind.count + 20)
    whole = steps(1, kind.noise_multiplier, kind.count)
    assert epsilon([more_noise], delta=1e-5) < value < epsilon([more_steps], delta=1e-5)
    assert value < epsilon([whole], delta=1e-5) + 1e-9
    assert epsilon([kind], delta=1e-4) < value


@few
@given(KINDS, KINDS)
@pytest.mark.soak
def test_composition_commutes_merges_and_never_forgets(one: PrivateSteps, other: PrivateSteps) -> None:
    both = epsilon([one, other], delta=1e-5)
    assert both == epsilon([other, one], delta=1e-5)
    halves = [steps(one.sample_rate, one.noise_multiplier, 1)] * one.count
    assert epsilon([*halves, other], delta=1e-5) == both
    assert both > max(epsilon([one], delta=1e-5), epsilon([other], delta=1e-5)) - 1e-3


def test_nothing_costs_nothing() -> None:
    assert epsilon([], delta=1e-5) == epsilon_prv([], delta=1e-5) == delta([], epsilon=0) == 0


@pytest.mark.parametrize(
    ("sample_rate", "sigma", "count"),
    [
        (0, 1, 1),
        (1.3, 1, 1),
        (-0.1, 1, 1),
        (0.2, 0, 1),
        (0.2, -1, 1),
        (0.2, math.nan, 1),
        (0.2, math.inf, 1),
        (math.nan, 1, 1),
        (0.2, 1, 0),
        (0.2, 1, -3),
    ],
)
def test_steps_that_cannot_be_are_refused(sample_rate: float, sigma: float, count: int) -> None:
    with pytest.raises(ConfigurationError, match="Expected"):
        steps(sample_rate, sigma, count)


def test_a_count_is_a_whole_number() -> None:
    with pytest.raises(ConfigurationError, match="whole number"):
        PrivateSteps(sample_rate=0.2, noise_multiplier=1.0, count=True)
    with pytest.raises(TypeError, match="count"):
        PrivateSteps(sample_rate=0.2, noise_multiplier=1.0, count=1.5)  # type: ignore[arg-type]


def test_events_of_unknown_cost_are_refused() -> None:
    with pytest.raises(VerificationError, match="unknown cost"):
        merge([steps(0.2, 1, 1), GaussianDpEvent(1.0)])


@pytest.mark.parametrize("bad", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_out_of_range_is_refused(bad: float) -> None:
    for accountant in (epsilon, epsilon_prv):
        with pytest.raises(ConfigurationError, match="delta"):
            accountant([steps(0.2, 1, 1)], delta=bad)
    for target in (0.0, math.inf, -1.0):
        with pytest.raises(ConfigurationError, match="target_epsilon"):
            noise_multiplier(target, sample_rate=0.2, count=1, delta=1e-5)
    with pytest.raises(ConfigurationError, match="epsilon"):
        delta([steps(0.2, 1, 1)], epsilon=math.inf)


@pytest.mark.soak
def test_other_neighbours_are_named_and_cost_more() -> None:
    released = [steps(0.2, 4, 100)]
    one, replaced = epsilon(released, delta=1e-5), epsilon_replaced(released, delta=1e-5)
    two, eight = (group_epsilon(released, patients=k, delta=1e-5) for k in (2, 8))
    values = [one, replaced, two, eight]
    assert values == pytest.approx([2.102, 4.357, 4.632, 26.09], rel=2e-3)


def test_other_neighbours_of_the_whole_cohort_are_exact() -> None:
    released = [steps(1, 4, 10)]
    mu = math.sqrt(10) / 4
    assert epsilon_replaced(released, delta=1e-5) == gaussian_epsilon(2 * mu, delta=1e-5)
    assert group_epsilon(released, patients=3, delta=1e-5) == gaussian_epsilon(3 * mu, delta=1e-5)
    assert group_epsilon(released, patients=1, delta=1e-5) == epsilon(released, delta=1e-5)
    mixed, whole = [steps(1, 20, 2), steps(0.999999, 20, 2)], [steps(1, 20, 4)]
    for convert in (epsilon_replaced, partial(group_epsilon, patients=2)):
        assert convert(mixed, delta=1e-5) == pytest.approx(convert(whole, delta=1e-5), rel=2e-3)
    with pytest.raises(ConfigurationError, match="group"):
        group_epsilon(released, patients=0, delta=1e-5)
