"""Shares of secrets, whole numbers for real ones, and shares of the noise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest

from common.errors import ConfigurationError, PolicyError, UpdateError, VerificationError
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.mechanism.discrete_gaussian import LARGEST_VARIANCE
from common.secure_aggregation import noise_shares, shamir
from common.secure_aggregation.fixed_point import (
    Weighted,
    centred,
    needed_bits,
    quantise,
    squared_norm,
    to_ring,
)
from tests.summing import fresh


@given(st.binary(min_size=32, max_size=32), st.integers(1, 7), st.integers(0, 4), st.integers(0, 100))
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, threshold: int, more: int, at: int) -> None:
    shares = dict(
        enumerate(
            shamir.split(secret, threshold=threshold, count=threshold + more, entropy=fresh("shares", at)),
            start=1,
        )
    )
    for chosen in itertools.islice(itertools.combinations(shares, threshold), 5):
        assert shamir.combine({n: shares[n] for n in chosen}, shamir.weights(chosen)) == secret


@given(st.binary(min_size=32, max_size=32), st.integers(2, 6))
def test_fewer_shares_are_consistent_with_every_secret(other: bytes, threshold: int) -> None:
    """For each secret there is one further share that makes it the right one."""
    shares = shamir.split(fresh("a secret"), threshold=threshold, count=threshold, entropy=fresh("shares"))
    known = dict(enumerate(shares[:-1], start=1))
    by = shamir.weights(range(1, threshold + 1))
    partial = sum(int.from_bytes(share, "big") * by[number] for number, share in known.items())
    last = (int.from_bytes(other, "big") - partial) * pow(by[threshold], -1, shamir.PRIME) % shamir.PRIME
    assert shamir.combine({**known, threshold: last.to_bytes(33, "big")}, by) == other


def test_the_modulus_is_prime_and_shares_that_do_not_fit_are_refused() -> None:
    """Miller and Rabin with the first bases (a composite passes each with probability 1/4)."""
    odd, twos = shamir.PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53):
        powers = [pow(base, odd << step, shamir.PRIME) for step in range(twos)]
        assert powers[0] == 1 or shamir.PRIME - 1 in powers
    with pytest.raises(VerificationError, match="do not fit together"):
        shamir.combine({1: (shamir.PRIME - 1).to_bytes(33, "big")}, shamir.weights([1]))
    with pytest.raises(VerificationError, match="Expected shares"):
        shamir.combine({1: bytes(33)}, shamir.weights([1, 2]))
    for threshold, count in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="threshold"):
            shamir.split(bytes(32), threshold=threshold, count=count, entropy=fresh("shares"))


@given(
    arrays(
        np.float64, (4, 30), elements=st.floats(-10, 10) | st.sampled_from([math.nan, math.inf, -math.inf])
    ),
    st.integers(1, 2**30),
    st.sampled_from([0.1, 1.0, 3.0]),
)
def test_no_row_is_longer_than_agreed_whatever_comes_in(
    rows: np.ndarray, norm_steps: int, norm: float
) -> None:
    for row in quantise(rows, norm=norm, norm_steps=norm_steps):
        assert sum(int(x) ** 2 for x in row) <= norm_steps**2


def test_rounding_is_to_nearest_and_clipped_rows_hardly_lose() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 800))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    short = quantise(rows * 0.9, norm=1.0, norm_steps=700)
    assert (short == np.rint(rows * 0.9 * 700)).all()
    full = quantise(rows, norm=1.0, norm_steps=700)
    lengths = np.sqrt((full.astype(np.float64) ** 2).sum(axis=1)) / 700
    assert lengths.max() <= 1 and lengths.min() > 0.98
    assert ((full / 700 * rows).sum(axis=1) > 0.97).all()
    assert not quantise(np.full((1, 3), np.nan), norm=1.0, norm_steps=9).any()
    assert quantise(np.zeros((0, 3)), norm=1.0, norm_steps=9).shape == (0, 3)
    for wrong in (
        {"norm": 0.0, "norm_steps": 9},
        {"norm": 1.0, "norm_steps": 0},
        {"norm": 1.0, "norm_steps": 2**31},
    ):
        with pytest.raises(ConfigurationError, match="Expected a norm > 0"):
            quantise(rows, **wrong)  # type: ignore[arg-type]


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=20))
def test_squares_are_added_exactly(values: list[int]) -> None:
    assert squared_norm(np.array(values, np.int64)) == sum(value**2 for value in values)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1), st.sampled_from([32, 64]))
def test_the_ring_holds_signed_numbers(values: list[int], bits: int) -> None:
    assert centred(to_ring(np.array(values, np.int64), bits=bits)).tolist() == values


def test_rings_are_large_enough_or_refused() -> None:
    assert needed_bits(sites=5, largest=2**31 // 5) == 32
    assert needed_bits(sites=5, largest=2**31 // 5 + 1) == 64
    with pytest.raises(ConfigurationError, match="fits into 64 bits"):
        needed_bits(sites=2, largest=2**62)
    with pytest.raises(UpdateError, match="fit into 32 bits"):
        to_ring(np.array([2**31]), bits=32)


@settings(max_examples=50)
@given(st.data())
def test_weighted_sums_are_exact_to_half_a_step_of_the_mean(data: st.DataObject) -> None:
    sites, bits = data.draw(st.integers(1, 10)), data.draw(st.sampled_from([32, 64]))
    most = data.draw(st.integers(1, 2000))
    about = Weighted(largest_update=0.5, most_examples=most, sites=sites, bits=bits)
    updates = [data.draw(arrays(np.float64, 6, elements=st.floats(-1, 1))) for _ in range(sites)]
    counts = data.draw(st.lists(st.integers(0, most), min_size=sites, max_size=sites).filter(any))
    total: np.ndarray = np.zeros(7, np.uint32 if bits == 32 else np.uint64)
    for update, count in zip(updates, counts, strict=True):
        total += to_ring(about.encode(update, num_examples=count), bits=bits)
    mean, examples = about.mean(centred(total))
    expected = np.average(np.clip(updates, -0.5, 0.5), axis=0, weights=counts)
    assert examples == sum(counts)
    assert np.abs(mean - expected).max() <= about.grid * 0.51
    assert needed_bits(sites=sites, largest=about.largest) <= bits


def test_weighted_sums_refuse_what_does_not_fit() -> None:
    about = Weighted(largest_update=1.0, most_examples=10, sites=3, bits=32)
    for update, count, message in (
        (np.array([math.nan]), 1, "finite"),
        (np.zeros(1), 11, r"0\.\.10 examples"),
        (np.zeros(1), -1, r"0\.\.10 examples"),
    ):
        with pytest.raises(UpdateError, match=message):
            about.encode(update, num_examples=count)
    with pytest.raises(UpdateError, match="at least one example"):
        about.mean(np.zeros(3, np.int64))
    with pytest.raises(ConfigurationError, match="use 64 bits"):
        Weighted(largest_update=1.0, most_examples=10**6, sites=100, bits=32)
    with pytest.raises(ConfigurationError, match="largest_update > 0"):
        Weighted(largest_update=0.0, most_examples=10, sites=3, bits=32)


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
