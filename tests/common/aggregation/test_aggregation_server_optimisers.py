from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.aggregation.server_optimisers import AdaptiveOptimiser, adam, yogi
from common.errors import ConfigurationError

Flat = NDArray[np.float32]
Rule = Callable[[Flat, Flat, float], Flat]


def _flat(*values: float) -> Flat:
    return np.array(values, dtype=np.float32)


def _run(optimiser: AdaptiveOptimiser, weights: Flat, updates: list[Flat]) -> list[Flat]:
    moments, seen = optimiser.init(trained=len(weights)), []
    for update in updates:
        weights, moments = optimiser.step(weights, update, moments)
        seen.append(weights)
    return seen


def test_two_rounds_of_fedadam_by_hand() -> None:
    # Algorithm 2 with beta1 = beta2 = 1/2, tau = 1, eta = 2, updates 2 and then 0, from w = 0:
    #   m = 1,   v = (1 + 4) / 2 = 2.5,    w = 2 * 1 / (sqrt 2.5 + 1)
    #   m = 0.5, v = (2.5 + 0) / 2 = 1.25, w += 2 * 0.5 / (sqrt 1.25 + 1)
    fedadam = AdaptiveOptimiser(second_moment=adam, learning_rate=2.0, beta1=0.5, beta2=0.5, tau=1.0)
    first, second = _run(fedadam, _flat(0), [_flat(2), _flat(0)])
    np.testing.assert_allclose(first, 2 / (2.5**0.5 + 1), rtol=1e-6)
    np.testing.assert_allclose(second, 2 / (2.5**0.5 + 1) + 1 / (1.25**0.5 + 1), rtol=1e-6)


def test_two_rounds_of_fedyogi_by_hand() -> None:
    # The same, v by Yogi's rule: 1 - 4 / 2 * sign(1 - 4) = 3, then 3 - 0 = 3.
    fedyogi = AdaptiveOptimiser(second_moment=yogi, learning_rate=2.0, beta1=0.5, beta2=0.5, tau=1.0)
    first, second = _run(fedyogi, _flat(0), [_flat(2), _flat(0)])
    np.testing.assert_allclose(first, 2 / (3**0.5 + 1), rtol=1e-6)
    np.testing.assert_allclose(second, 2 / (3**0.5 + 1) + 1 / (3**0.5 + 1), rtol=1e-6)


@given(st.integers(0, 1000), st.integers(1, 8))
def test_fedadam_is_torchs_adam_with_its_bias_correction_undone(seed: int, rounds: int) -> None:
    eta, beta1, beta2, tau = 0.03, 0.9, 0.99, 1e-3
    rng = np.random.default_rng(seed)
    updates = [(0.01 * rng.normal(size=5)).astype(np.float32) for _ in range(rounds)]
    start = rng.normal(size=5).astype(np.float32)
    weights = torch.nn.Parameter(torch.from_numpy(start.astype(np.float64)))
    oracle = torch.optim.Adam([weights], betas=(beta1, beta2))
    oracle.state[weights] = {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros(5, dtype=torch.float64),
        "exp_avg_sq": torch.full((5,), tau**2, dtype=torch.float64),
    }
    for round_, update in enumerate(updates, start=1):
        undone = (1 - beta2**round_) ** 0.5
        oracle.param_groups[0].update(lr=eta * (1 - beta1**round_) / undone, eps=tau / undone)
        weights.grad = -torch.from_numpy(update.astype(np.float64))  # torch descends, updates ascend
        oracle.step()
    ours = _run(AdaptiveOptimiser(second_moment=adam, learning_rate=eta), start, updates)[-1]
    np.testing.assert_allclose(ours, weights.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [adam, yogi])
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1e-2, 1e4]))
def test_second_moment_stays_positive_and_no_step_is_unbounded(rule: Rule, seed: int, scale: float) -> None:
    optimiser = AdaptiveOptimiser(second_moment=rule, learning_rate=1.0)
    rng = np.random.default_rng(seed)
    weights, moments = _flat(0, 0, 0), optimiser.init(trained=3)
    for _ in range(12):
        update = (scale * rng.standard_t(2, size=3)).astype(np.float32)
        weights, moments = optimiser.step(weights, update, moments)
        assert (moments.second >= 0).all()
        assert np.isfinite(weights).all()
        assert weights.dtype == moments.first.dtype == moments.second.dtype == np.float32


def test_yogi_forgets_a_large_update_more_slowly_than_adam() -> None:
    squares = [_flat(1.0), *[_flat(1e-4)] * 100]
    after = {}
    for rule in (adam, yogi):
        second = _flat(1e-6)
        for squared in squares:
            second = rule(second, squared, 0.99)
        after[rule] = float(second[0])
    # After 0.01 of the first square: adam keeps 0.99^100 = 0.37 of it, yogi loses 100 x 0.01 x 1e-4.
    assert after[adam] == pytest.approx(0.01 * 0.99**100 + 1e-4 * (1 - 0.99**100), rel=1e-3)
    assert after[yogi] == pytest.approx(0.01 - 1e-4, rel=1e-3)


def test_buffers_take_the_mean_update_as_it_is() -> None:
    optimiser = AdaptiveOptimiser(second_moment=adam, learning_rate=0.1)
    weights, update = _flat(1, 1, 1), _flat(0.5, 0.5, -0.25)
    after, moments = optimiser.step(weights, update, optimiser.init(trained=1))
    np.testing.assert_array_equal(after[1:], [1.5, 0.75])
    assert after[0] != 1.5
    assert len(moments.first) == len(moments.second) == 1
    np.testing.assert_array_equal(weights, [1, 1, 1])


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0.0}, {"tau": 0.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"tau": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="tau > 0"):
        AdaptiveOptimiser(second_moment=adam, **{"learning_rate": 0.1, **wrong})
