"""Shares of the noise in a sum."""

import math

import numpy as np
import pytest
from scipy.stats import kstest

from common.errors import ConfigurationError, PolicyError
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.mechanism import noise_shares
from common.privacy.mechanism.discrete_gaussian import LARGEST_VARIANCE
from tests.summing import fresh


def test_dropouts_cost_what_the_document_says() -> None:
    """docs/privacy.md: five sites, one colluder, shares made for all five: one dropout 9.5, two 12.3."""
    promised = 4.650
    spent = {
        left: epsilon(
            [
                PrivateSteps(
                    sample_rate=1.0,
                    noise_multiplier=noise_shares.actual_multiplier(promised, made_for=4, honest=left - 1),
                    count=60,
                )
            ],
            delta=1e-5,
        )
        for left in (5, 4, 3)
    }
    assert {left: round(value, 1) for left, value in spent.items()} == {5: 8.0, 4: 9.5, 3: 12.3}


def test_shares_for_the_survivors_add_up_to_what_was_promised() -> None:
    for survivors, colluders in ((5, 1), (4, 1), (7, 2), (2, 0)):
        share = noise_shares.share_multiplier(
            10.8, survivors=survivors, colluders=colluders, known_peers=4, minimum_peers=4
        )
        norm_steps = noise_shares.finest_norm_steps(share)
        variance = noise_shares.share_variance(share, norm_steps=norm_steps)
        assert variance <= LARGEST_VARIANCE
        honest = (survivors - colluders) * variance - noise_shares.SMOOTHING
        assert honest >= (10.8 * norm_steps) ** 2 and math.sqrt(honest) / norm_steps < 10.81


def test_with_too_few_known_peers_a_site_bears_all_the_noise_or_refuses() -> None:
    about = {"survivors": 5, "colluders": 1, "known_peers": 3, "minimum_peers": 4}
    assert noise_shares.share_multiplier(8.0, **about, otherwise="full") == 8.0
    with pytest.raises(PolicyError, match="at least 4 other sites with known keys, got 3"):
        noise_shares.share_multiplier(8.0, **about)  # type: ignore[arg-type]
    for wrong in ({"noise_multiplier": 0.0}, {"colluders": 5}, {"colluders": -1}):
        with pytest.raises(ConfigurationError, match="0 <= colluders < survivors"):
            noise_shares.share_multiplier(**{"noise_multiplier": 8.0, **about, **wrong})  # type: ignore[arg-type]


def test_a_share_that_is_too_coarse_or_too_large_is_refused() -> None:
    assert noise_shares.share_variance(5.0, norm_steps=20) == 100**2 + noise_shares.SMOOTHING
    with pytest.raises(ConfigurationError, match="at least 100 grid steps, got 95"):
        noise_shares.share_variance(5.0, norm_steps=19)
    with pytest.raises(ConfigurationError, match="a multiplier of at most 4096"):
        noise_shares.finest_norm_steps(5000.0)


@pytest.mark.parametrize("variance", [100**2, 3 * LARGEST_VARIANCE])
def test_noise_has_the_promised_scale_and_others_are_rejected(variance: int) -> None:
    values = noise_shares.draw(20_000, variance=variance, entropy=fresh("noise", variance)) / math.sqrt(
        variance
    )
    assert kstest(values, "norm").pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert kstest(values * wrong, "norm").pvalue < 1e-6
    assert np.abs(values).max() * math.sqrt(variance) < noise_shares.largest_noise(variance)
    other = noise_shares.draw(20_000, variance=variance, entropy=fresh("other", variance)) / math.sqrt(
        variance
    )
    assert abs(np.corrcoef(values, other)[0, 1]) < 5 / math.sqrt(20_000)


def discrete_gaussian_pmf(variance: float, reach: int, centre: float = 0.0) -> np.ndarray:
    weight = np.exp(-((np.arange(-reach, reach + 1) - centre) ** 2) / (2 * variance))
    return np.asarray(weight / weight.sum())


@pytest.mark.parametrize("variance", [0.25, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shares", [2, 3, 5])
def test_the_bound_on_a_sum_of_shares_holds_where_it_can_be_seen(variance: float, shares: int) -> None:
    """At a hundred grid steps the difference is far below what a float shows; at half a step it is not."""
    reach = 8
    one = discrete_gaussian_pmf(variance, reach)
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    ideal = discrete_gaussian_pmf(shares * variance, (len(total) - 1) // 2)
    middle = slice((len(total) - 1) // 2 - 5, (len(total) - 1) // 2 + 6)
    found = np.abs(np.log(total[middle] / ideal[middle])).max()
    bound = 5 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, shares))
    assert found <= bound + 1e-12
    assert variance > 0.4 or found > bound / 20


@pytest.mark.parametrize("smoothing", [0.25, 0.3, 0.5])
def test_a_discrete_gaussian_is_a_continuous_one_rounded_at_random(smoothing: float) -> None:
    """Step 2 of the guarantee, by numerical integration."""
    variance, reach = 3.0, 12
    points = np.linspace(-14, 14, 28_001)
    density = np.exp(-(points**2) / (2 * (variance - smoothing)))
    density /= density.sum()
    numbers = np.arange(-reach - 8, reach + 9)
    kernel = np.exp(-((numbers[:, None] - points[None]) ** 2) / (2 * smoothing))
    rounded = (kernel / kernel.sum(axis=0)) @ density
    ideal = discrete_gaussian_pmf(variance, reach + 8)
    middle = slice(8 + reach - 5, 8 + reach + 6)
    found = np.abs(np.log(rounded[middle] / ideal[middle])).max()
    error = 2 * sum(math.exp(-2 * math.pi**2 * smoothing * k**2) for k in range(1, 20))
    assert found <= math.log((1 + error) / (1 - error))
    assert smoothing > 0.4 or found > 1e-7


def test_what_discreteness_adds_to_delta_is_tiny_and_grows_by_addition() -> None:
    usual = {"length": 10_000, "shares": 200, "variance": 100**2 + noise_shares.SMOOTHING}
    assert 0 < noise_shares.delta_correction(8.0, rounds=60, **usual) < 1e-70
    one, sixty = (noise_shares.delta_correction(3.0, rounds=rounds, **usual) for rounds in (1, 60))
    assert sixty == pytest.approx(60 * one)
    small = noise_shares.log10_delta_correction(1.0, rounds=1, length=1, shares=2, variance=1)
    by_hand = (1 + math.e) * 5 * math.exp(-(math.pi**2))
    assert 10**small == pytest.approx(by_hand)
    assert noise_shares.delta_correction(8.0, rounds=60, length=10**6, shares=200, variance=1) == 1.0
