"""Bounds by the trade-off curve: never too high for a Gaussian, higher than by epsilon and delta."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from common.errors import ConfigurationError
from common.privacy.accounting.accounting import PrivateSteps, noise_multiplier
from common.privacy.audit import audit, trade_off

CHOICES = (20, 50, 100, 200, 400, 800)
CANARIES = 1000
DELTA = 1e-5


def whole(claim: float) -> PrivateSteps:
    sigma = noise_multiplier(claim, sample_rate=1.0, count=1, delta=DELTA)
    return PrivateSteps(sample_rate=1.0, noise_multiplier=sigma, count=1)


def attacked(steps: PrivateSteps, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The best attack on one Gaussian release of each canary's own coordinate."""
    rng = np.random.default_rng(seed)
    included = rng.random(CANARIES) < 0.5
    return included + steps.noise_multiplier * rng.standard_normal(CANARIES), included


@pytest.mark.parametrize(("claim", "times"), [(2.0, 1.2), (4.37, 1.3), (8.0, 1.35)])
def test_it_sees_more_than_epsilon_and_delta_do_on_the_same_scores(claim: float, times: float) -> None:
    steps = whole(claim)
    pairs = []
    for seed in range(8):
        scores, included = attacked(steps, seed)
        before = audit.best_lower_bound(scores, included, guesses=CHOICES, delta=DELTA)
        share = 1 - 0.05 / len(CHOICES)
        now = max(
            trade_off.epsilon_lower_bound(
                steps, canaries=CANARIES, guesses=r, correct=correct, delta=DELTA, confidence=share
            )
            for r, correct in audit.right_guesses(scores, included, guesses=CHOICES).items()
        )
        assert now >= before
        pairs.append((before, now))
    before, now = np.mean(pairs, axis=0)
    assert now > times * before
    assert now < claim


def test_a_claim_that_holds_is_refuted_no_more_often_than_the_confidence_says() -> None:
    steps = whole(1.0)
    curve = trade_off.least(steps)
    refuted = 0
    for seed in range(400):
        scores, included = attacked(steps, seed)
        correct = audit.right_guesses(scores, included, guesses=(200,))[200]
        refuted += trade_off.refutes(curve, canaries=CANARIES, guesses=200, correct=correct, confidence=0.9)
    assert refuted <= binom.ppf(0.999, 400, 0.1)


def test_guesses_are_planned_by_the_claim_and_show_nearly_as_much_as_any_number_would() -> None:
    for claim in (1.0, 3.0, 8.0):
        planned = trade_off.planned_guesses(claim, canaries=CANARIES, delta=DELTA)
        sigma = whole(claim).noise_multiplier / 2
        steps = PrivateSteps(sample_rate=1.0, noise_multiplier=sigma, count=1)
        shown: dict[int, list[float]] = {}
        for seed in range(8):
            scores, included = attacked(steps, seed)
            for r, correct in audit.right_guesses(scores, included, guesses=(*CHOICES, planned)).items():
                bound = trade_off.epsilon_lower_bound(
                    steps, canaries=CANARIES, guesses=r, correct=correct, delta=DELTA
                )
                shown.setdefault(r, []).append(bound)
        means = {r: np.mean(bounds) for r, bounds in shown.items()}
        assert means[planned] > 0.88 * max(means.values()), claim


def test_the_curve_of_one_gaussian() -> None:
    curve = trade_off.least(PrivateSteps(sample_rate=1.0, noise_multiplier=4.0, count=4))
    for x in (0.01, 0.3, 0.5, 0.9, 0.999):
        assert curve(x) == pytest.approx(norm.cdf(norm.ppf(x) - 0.5), rel=1e-9)


def test_the_curve_of_sampled_steps_lies_above_that_of_steps_of_everybody_and_comes_close_to_it() -> None:
    """At a rate of nearly 1 the two ways to a curve must agree: one is exact, the other by epsilons and deltas."""
    exact = trade_off.least(PrivateSteps(sample_rate=1.0, noise_multiplier=4.0, count=4))
    close = trade_off.least(PrivateSteps(sample_rate=0.9999, noise_multiplier=4.0, count=4))
    sampled = trade_off.least(PrivateSteps(sample_rate=0.5, noise_multiplier=4.0, count=4))
    for x in (0.05, 0.3, 0.5, 0.8, 0.95):
        assert close(x) == pytest.approx(exact(x), abs=2e-3)
        assert exact(x) < sampled(x) < x


def test_chance_and_perfection() -> None:
    steps = whole(3.0)
    assert trade_off.epsilon_lower_bound(steps, canaries=100, guesses=0, correct=0, delta=DELTA) == 0
    assert trade_off.epsilon_lower_bound(steps, canaries=100, guesses=40, correct=20, delta=DELTA) == 0
    perfect = [
        trade_off.epsilon_lower_bound(steps, canaries=1000, guesses=r, correct=r, delta=DELTA)
        for r in CHOICES
    ]
    assert perfect == sorted(perfect)
    assert 5 < perfect[-1] < 20


@pytest.mark.parametrize(("guesses", "correct"), [(10, 11), (101, 3), (10, -1)])
def test_counts_that_cannot_be(guesses: int, correct: int) -> None:
    with pytest.raises(ConfigurationError, match="Expected 0 <= correct <= guesses <= canaries"):
        trade_off.epsilon_lower_bound(whole(3.0), canaries=100, guesses=guesses, correct=correct, delta=DELTA)
