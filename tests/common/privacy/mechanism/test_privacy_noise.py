import hashlib
import math
from typing import Any

import numpy as np
import pytest
from Crypto.Cipher import ChaCha20
from scipy.stats import chisquare, kstest

from common.errors import ConfigurationError
from common.privacy.mechanism.discrete_gaussian import discrete_gaussian
from common.privacy.mechanism.gaussian_release import ROOM, clipping_norm, grid_step, release
from common.privacy.mechanism.noise import KeyStream
from tests.private_heads import entropy

COUNT = 40_000


def stream(*label: object) -> KeyStream:
    return KeyStream(entropy(*label), "noise")


def test_normal_values_are_normal_and_other_scales_are_rejected() -> None:
    values = stream("normal").gaussian(COUNT)
    assert kstest(values, "norm").pvalue > 0.01
    for wrong in (2 / 3, 1.05, 3 / 2):
        assert kstest(values * wrong, "norm").pvalue < 1e-4


def test_tails_are_those_of_a_normal() -> None:
    values = np.abs(stream("tails").gaussian(1_000_000))
    for beyond, expected in ((3, 2.6998e-3), (4, 6.334e-5)):
        found = (values > beyond).sum()
        assert abs(found - 1e6 * expected) < 5 * math.sqrt(1e6 * expected)
    assert values.max() < 9.5


def test_coordinates_are_independent() -> None:
    values = stream("independent").gaussian(COUNT)
    for lag in (1, 2, COUNT // 2, COUNT // 2 - 1):
        correlation = np.corrcoef(values[:-lag], values[lag:])[0, 1]
        squares = np.corrcoef(values[:-lag] ** 2, values[lag:] ** 2)[0, 1]
        assert max(abs(correlation), abs(squares)) < 5 / math.sqrt(COUNT - lag)


def test_streams_of_other_entropy_or_purpose_have_nothing_in_common() -> None:
    draws = [
        stream("a").gaussian(COUNT),
        stream("b").gaussian(COUNT),
        KeyStream(entropy("a"), "sampling").gaussian(COUNT),
    ]
    correlation = np.corrcoef(draws) - np.eye(3)
    assert np.abs(correlation).max() < 5 / math.sqrt(COUNT)


def test_a_stream_goes_on() -> None:
    one = stream("goes on")
    assert not set(one.words(1000)) & set(one.words(1000))


def test_words_are_chacha20_by_another_library_and_uniform() -> None:
    words = stream("uniform").words(COUNT)
    nonce = hashlib.blake2b(b"noise", digest_size=12).digest()
    other = ChaCha20.new(key=entropy("uniform"), nonce=nonce).encrypt(bytes(8 * COUNT))
    assert words.astype("<u8").tobytes() == other
    assert kstest(words.astype(np.float64) / 2**64, "uniform").pvalue > 0.01
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / math.sqrt(64 * COUNT)


@pytest.mark.parametrize(
    "seed", [bytes(32), b"\xff" * 32, b"short", b"x" * 64, bytearray(range(32)), 7, "7" * 32]
)
def test_a_seed_is_refused(seed: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError)):
        KeyStream(seed, "noise")


def test_choices_have_their_probability_and_are_independent() -> None:
    for probability in (0.0, 0.2, 0.6, 1.0):
        taken = stream("choices", probability).bernoulli(COUNT, probability=probability)
        spread = math.sqrt(COUNT * probability * (1 - probability))
        assert abs(taken.sum() - COUNT * probability) <= 4 * spread
    taken = stream("choices").bernoulli(COUNT, probability=0.2)
    assert abs((taken[1:] & taken[:-1]).mean() - 0.04) < 5 * math.sqrt(0.04 / COUNT)


def test_numbers_below_a_bound_are_uniform_even_where_it_hardly_divides() -> None:
    for bound in (1, 3, 7, 2**63 - 25, 2**63):
        drawn = stream("below", bound).below(np.full(COUNT, bound, np.uint64))
        assert drawn.max() < bound
        cells = np.bincount((drawn.astype(np.float64) / bound * min(bound, 7)).astype(int).clip(max=6))
        assert bound == 1 or chisquare(cells).pvalue > 0.001


@pytest.mark.parametrize("variance", [1, 2, 30, 10_000, 2**24])
def test_discrete_gaussian_has_its_probabilities(variance: int) -> None:
    drawn = discrete_gaussian(stream("discrete", variance), COUNT, variance=variance)
    reach = 4 * math.isqrt(variance) + 4
    values = np.arange(-3 * reach, 3 * reach + 1)
    mass = np.exp(-(values.astype(np.float64) ** 2) / (2 * variance))
    mass /= mass.sum()
    cells = np.unique(np.searchsorted(mass.cumsum(), np.linspace(0, 1, 30)[1:-1]))
    expected = np.diff(np.concatenate([[0], mass.cumsum()[cells], [1]])) * COUNT
    found = np.bincount(np.searchsorted(values[cells], drawn), minlength=len(expected))
    assert chisquare(found, expected).pvalue > 0.01
    for wrong in (2 / 3, 3 / 2):
        other = np.bincount(
            np.searchsorted(values[cells], np.rint(wrong * drawn).astype(int)), minlength=len(expected)
        )
        assert chisquare(other, expected).pvalue < 1e-6


def test_discrete_gaussian_of_nothing_and_of_too_much() -> None:
    assert discrete_gaussian(stream("none"), 0, variance=100).shape == (0,)
    for variance in (0, -4, 2**24 + 1):
        with pytest.raises(ConfigurationError, match="grid steps"):
            discrete_gaussian(stream("none"), 1, variance=variance)


def scale_of(noise: np.ndarray, std: float) -> tuple[float, float]:
    """Chi-square test of the variance: the ratio found, and how far it may lie from 1."""
    return float(np.mean(noise**2)) / std**2, 6 * math.sqrt(2 / noise.size)


def test_a_release_has_noise_of_sigma_times_the_norm() -> None:
    for sigma, norm in ((1.0, 1.0), (4.0, 0.1), (0.5, 30.0)):
        noise = release(
            np.zeros(COUNT), max_grad_norm=norm, noise_multiplier=sigma, stream=stream("release", sigma)
        )
        ratio, margin = scale_of(noise, sigma * norm)
        assert abs(ratio - 1) < margin
        for wrong in (2 / 3, 3 / 2):
            assert abs(scale_of(noise * wrong, sigma * norm)[0] - 1) > margin


def test_two_releases_differ() -> None:
    draws = [
        release(np.ones(1000), max_grad_norm=1.0, noise_multiplier=1.0, stream=stream("run", run)) - 1
        for run in range(2)
    ]
    assert abs(np.corrcoef(draws)[0, 1]) < 0.2


def test_a_release_lies_on_the_grid_whatever_it_is_made_of() -> None:
    rng = np.random.default_rng(0)
    for size, norm in ((1, 1.0), (1000, 0.3), (20_000, 7.0)):
        total = rng.normal(size=size) * norm
        released = release(total, max_grad_norm=norm, noise_multiplier=2.0, stream=stream("grid", size))
        steps = released / grid_step(size, max_grad_norm=norm)
        assert np.array_equal(steps, np.rint(steps))
        assert grid_step(size, max_grad_norm=norm) * math.sqrt(size) <= ROOM * norm


def test_rounding_has_room() -> None:
    """Two sums that differ by the clipping norm differ by at most C once they are rounded."""
    rng = np.random.default_rng(1)
    for size in (1, 100, 20_000):
        change = rng.normal(size=size)
        change *= clipping_norm(2.0) / np.linalg.norm(change)
        total = rng.normal(size=size)
        step = grid_step(size, max_grad_norm=2.0)
        moved = (np.rint((total + change) / step) - np.rint(total / step)) * step
        assert np.linalg.norm(moved) <= 2.0
        assert clipping_norm(2.0) > 1.999


def test_what_cannot_be_released_is_refused() -> None:
    for norm, sigma in ((0.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan)):
        with pytest.raises(ConfigurationError, match="Expected"):
            release(np.zeros(3), max_grad_norm=norm, noise_multiplier=sigma, stream=stream("refused"))
    with pytest.raises(ConfigurationError, match="finite"):
        release(np.array([1.0, math.nan]), max_grad_norm=1.0, noise_multiplier=1.0, stream=stream("refused"))
