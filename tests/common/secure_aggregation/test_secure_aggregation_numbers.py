"""Shares of secrets, and whole numbers for real ones."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import ConfigurationError, UpdateError, VerificationError
from common.secure_aggregation import shamir
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
