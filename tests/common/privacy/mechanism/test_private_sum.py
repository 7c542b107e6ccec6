"""Gradients in, a noised sum out: the whole way through grid, noise, masks and back."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import kstest

from common.errors import ConfigurationError
from common.privacy.mechanism.private_sum import PrivateSum
from common.secure_aggregation.centre import Attempt
from tests.summing import NAMES, context, fresh, play, registered, sites

USUAL = PrivateSum(
    max_grad_norm=2.0, noise_multiplier=10.8, patients=30, sites=5, survivors=4, colluders=1, length=4000
)


def gradients(label: str, count: int = 30) -> np.ndarray:
    rng = np.random.default_rng(int.from_bytes(fresh(label)[:4], "big"))
    rows = rng.normal(size=(count, USUAL.length)) + 1.0
    return np.asarray(2.0 * rows / np.linalg.norm(rows, axis=1, keepdims=True))


def summed(absent: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray, int]:
    """The gradient that the centre has, the one without noise, and how many sites are in it."""
    rows = {name: gradients(name) for name in NAMES[:5]}
    vectors = {
        name: USUAL.vector(rows[name], noise="share", entropy=fresh("noise", name, absent)) for name in rows
    }
    terms = USUAL.terms()
    attempt = Attempt(context=context(), terms=terms, registered=registered(5))
    play(attempt, sites(vectors, terms), absent={"masked": absent})
    count = len(attempt.survivors)
    gradient = USUAL.gradient(attempt.sum(), sample_rate=1.0, survivors=count)
    return gradient, sum(rows[name].sum(axis=0) for name in attempt.survivors) / (30 * count), count


@pytest.mark.parametrize("absent", [(), ("Cork",)])
def test_a_sum_has_the_noise_of_its_sites_and_other_scales_are_rejected(absent: tuple[str, ...]) -> None:
    gradient, expected, count = summed(absent)
    std = 10.8 * 2.0 * math.sqrt(count / 3) / (30 * count)
    noise = (gradient - expected) / std
    assert kstest(noise, "norm").pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert kstest(noise * wrong, "norm").pvalue < 1e-6


def test_without_the_noise_a_patient_moves_the_vector_by_no_more_than_agreed() -> None:
    """The same noise with and without a patient, whose gradient is as long as it likes."""
    rows = gradients("here")
    for extra in (gradients("one more", 1)[0], np.full(USUAL.length, 1e6), np.full(USUAL.length, np.nan)):
        with_, without = (
            USUAL.vector(some, noise="share", entropy=fresh("fixed")) for some in ((*rows, extra), rows)
        )
        moved = sum(int(x) ** 2 for x in with_ - without)
        assert moved <= USUAL.norm_steps**2
        assert math.isnan(extra[0]) or moved > (0.95 * USUAL.norm_steps) ** 2
    assert not (USUAL.vector([], noise="share", entropy=fresh("fixed")) == 0).all()


def test_the_grid_is_fine_and_the_ring_holds_everything() -> None:
    assert USUAL.terms().bits == 32
    assert math.sqrt(USUAL.variance("share")) == pytest.approx(4096, rel=0.01)
    assert USUAL.variance("full") == pytest.approx(3 * USUAL.variance("share"), rel=1e-4)
    long = dataclasses.replace(USUAL, length=10**5)
    assert long.norm_steps == math.ceil(8 * math.sqrt(10**5))
    assert math.sqrt(long.variance("share")) == pytest.approx(long.norm_steps * 10.8 / math.sqrt(3), rel=0.01)
    many = dataclasses.replace(USUAL, patients=10**6)
    assert many.terms().bits == 64
    assert 0 <= USUAL.delta_correction(8.0, rounds=60) < 1e-70


def test_full_noise_is_what_a_site_adds_alone() -> None:
    alone = USUAL.vector([], noise="full", entropy=fresh("alone")) * USUAL.grid / (10.8 * 2.0)
    assert kstest(alone, "norm").pvalue > 1e-3


def test_settings_that_do_not_fit_are_refused() -> None:
    for wrong in (
        {"max_grad_norm": 0.0},
        {"patients": 0},
        {"survivors": 3},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": 1e5},
        {"length": 10**7},
    ):
        with pytest.raises(ConfigurationError, match="Expected"):
            PrivateSum(**{**dataclasses.asdict(USUAL), **wrong})
    small = dataclasses.replace(USUAL, patients=1)
    row = np.zeros(USUAL.length)
    row[0] = 2.0
    with pytest.raises(ConfigurationError, match="16 times 1 patients"):
        small.vector([row] * 17, noise="share", entropy=fresh("many"))
