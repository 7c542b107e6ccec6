"""Noise of a whole run: too little of it is found, sound noise is not, and the report names the limit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.privacy.audit.pooled_noise import PooledNoise, pooled

ROUNDS, VALUES = 60, 72


def run(
    factor: float = 1.0, *, seed: int = 0, rounds: int = ROUNDS, signal: float = 0.0, sampling: float = 0.0
) -> PooledNoise:
    """Noise of a factor of what is claimed, over a signal that moves slowly."""
    chance = np.random.default_rng(seed)
    direction = chance.normal(0, 1, VALUES)
    updates = [
        (number + 1, factor * chance.normal(0, 10.78, VALUES) + signal * direction * (1 - number / 200))
        for number in range(rounds)
    ]
    return pooled(updates, claimed=10.78, sampling=sampling)


def test_sound_noise_passes_and_noise_over_1_3_is_found_under_a_signal() -> None:
    """One round at a time does not see a factor of 1.3 in so few numbers."""
    for seed in range(20):
        assert not list(run(seed=seed).problems())
        assert not list(run(seed=seed, signal=8.0).problems())
        found = list(run(1 / 1.3, seed=seed, signal=8.0).problems())
        assert any("pairs of rounds" in one for one in found)


def test_the_smallest_deviation_is_found_as_often_as_is_said() -> None:
    told = run()
    for power in (0.8, 0.95):
        factor = told.findable(power)
        found = [bool(list(run(1 / factor, seed=seed).problems())) for seed in range(200)]
        # all rounds as they are find a little more than the pairs, whose power is stated
        assert np.mean(found) > power - 3 * math.sqrt(power * (1 - power) / 200)
    assert 1.05 < told.findable(0.8) < told.findable(0.95) < 1.2
    assert f"from a factor of {told.findable(0.95):.3g} on" in str(told)
    assert "nothing is contradicted" in str(told)


def test_more_rounds_find_smaller_deviations_and_sampled_patients_hide_them() -> None:
    assert run(rounds=8).findable(0.95) > run(rounds=60).findable(0.95) > run(rounds=600).findable(0.95)
    assert run(sampling=0.1).findable(0.95) > run().findable(0.95)
    assert run(sampling=2.0).findable(0.95) == math.inf
    assert "find no noise that is too small" in str(run(sampling=2.0))


def test_pairs_are_of_rounds_that_follow_each_other() -> None:
    chance = np.random.default_rng(0)
    kept = [(number, chance.normal(0, 1, 10)) for number in (1, 3, 4, 5, 8, 9)]
    assert pooled(kept, claimed=1.0, sampling=0.0).pairs == 2
    alone = pooled(kept[:2], claimed=1.0, sampling=0.0)
    assert (alone.pairs, alone.between, alone.findable(0.95)) == (0, None, math.inf)
    assert "no two rounds follow each other" in str(alone)


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_noise_that_is_missing_is_found_in_a_single_round(factor: float) -> None:
    assert list(run(factor, rounds=1).problems())
