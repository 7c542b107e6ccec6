import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigurationError
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.audit.audit import best_lower_bound, ceiling, epsilon_lower_bound
from common.privacy.mechanism.gaussian_release import release
from common.privacy.mechanism.noise import KeyStream
from tests.private_heads import entropy


def bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    return epsilon_lower_bound(
        canaries=canaries, guesses=guesses, correct=correct, delta=delta, confidence=confidence
    )


def test_golden_values() -> None:
    assert bound(500, 100, 100, 1e-5) == pytest.approx(3.4792, abs=1e-4)
    assert bound(500, 100, 100, 1e-5, confidence=0.99) == pytest.approx(3.0232, abs=1e-4)


@given(st.integers(1, 400), st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=20, deadline=None)
def test_all_right_without_delta_has_a_closed_form(guesses: int, confidence: float) -> None:
    """All right: a^r = 1 - confidence, a = e^eps / (1 + e^eps)."""
    right = (1 - confidence) ** (1 / guesses)
    expected = max(0.0, math.log(right / (1 - right)))
    assert bound(guesses, guesses, guesses, 0.0, confidence) == pytest.approx(expected, abs=1e-5)


def test_no_better_than_chance_proves_nothing() -> None:
    for guesses, correct in ((0, 0), (1, 1), (4, 4), (100, 50), (100, 0), (100, 55)):
        assert bound(1000, guesses, correct, 1e-5) == 0


@given(st.integers(60, 100), st.floats(0, 1e-3))
@settings(max_examples=15, deadline=None)
def test_more_right_guesses_prove_more_and_delta_takes_some_away(correct: int, delta: float) -> None:
    assert bound(200, 100, correct, delta) <= bound(200, 100, correct + (correct < 100), delta)
    assert bound(200, 100, correct, delta) <= bound(200, 100, correct, 0.0)
    assert bound(200, 100, correct, delta, confidence=0.99) <= bound(200, 100, correct, delta)
    assert bound(2000, 100, correct, delta) <= bound(200, 100, correct, delta)


def test_the_bound_is_wrong_no_more_often_than_it_says() -> None:
    """Randomised response at epsilon 1: of 400 audits about 5 % may claim more."""
    rng = np.random.default_rng(0)
    correct = rng.binomial(200, math.e / (1 + math.e), size=400)
    wrong = np.mean([bound(200, 200, int(count), 0.0) > 1 for count in correct])
    assert wrong < 0.08


def test_ceiling_of_a_perfect_attack() -> None:
    assert ceiling(canaries=1000, delta=1e-5) == pytest.approx(5.782, abs=0.01)
    assert ceiling(canaries=100, delta=1e-5) < ceiling(canaries=1000, delta=1e-5)
    assert ceiling(canaries=100, delta=1e-5) >= bound(100, 80, 80, 1e-5)


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "confidence"),
    [
        (0, 0, 0, 0, 0.95),
        (10, 11, 3, 0, 0.95),
        (10, 5, 6, 0, 0.95),
        (10, 5, -1, 0, 0.95),
        (10, 5, 5, 1.0, 0.95),
        (10, 5, 5, -0.1, 0.95),
        (10, 5, 5, 0, 1.0),
        (10, 5, 5, 0, 0.0),
    ],
)
def test_what_cannot_be_is_refused(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> None:
    with pytest.raises(ConfigurationError, match="Expected"):
        bound(canaries, guesses, correct, delta, confidence)


def test_scores_and_choices_that_cannot_be_are_refused() -> None:
    scores, included = np.arange(10.0), np.arange(10) > 5
    for choices in ((), (3,), (0,), (12,)):
        with pytest.raises(ConfigurationError, match="even"):
            best_lower_bound(scores, included, guesses=choices, delta=0)
    with pytest.raises(ConfigurationError, match="finite"):
        best_lower_bound(scores * np.nan, included, guesses=(2,), delta=0)


def test_trying_several_numbers_of_guesses_is_paid_for() -> None:
    included = np.arange(200) >= 100
    scores = np.arange(200.0)
    one = best_lower_bound(scores, included, guesses=(100,), delta=1e-5)
    assert one == bound(200, 100, 100, 1e-5)
    assert best_lower_bound(scores, included, guesses=(100, 20), delta=1e-5) < one


CLAIM = PrivateSteps(sample_rate=1.0, noise_multiplier=4.0, count=4)


def audit(
    *,
    sigma: float = CLAIM.noise_multiplier,
    releases: int = CLAIM.count,
    norm: float = 1.0,
    canaries: int = 1000,
) -> float:
    """One-run audit of the release: a canary is the whole clipping norm in a coordinate of its own."""
    included = KeyStream(entropy("coins", sigma, releases), "sampling").bernoulli(canaries, probability=0.5)
    score = np.zeros(canaries)
    for number in range(releases):
        stream = KeyStream(entropy("audit", sigma, releases, number), "noise")
        score += release(included * norm, max_grad_norm=1.0, noise_multiplier=sigma, stream=stream)
    return best_lower_bound(score, included, guesses=(20, 50, 100, 200, 400, 800), delta=1e-5)


def test_the_audit_stays_below_a_claim_that_holds() -> None:
    claim = epsilon([CLAIM], delta=1e-5)
    assert ceiling(canaries=1000, delta=1e-5) > 2 * claim
    assert audit() < claim


@pytest.mark.parametrize(
    "bug",
    [{"releases": 48 + CLAIM.count}, {"sigma": 0.4}, {"norm": 8.0}],
    ids=["48 uncounted releases", "noise ten times too small", "eight images clipped one by one"],
)
def test_the_audit_catches(bug: dict[str, Any]) -> None:
    assert audit(**bug) > epsilon([CLAIM], delta=1e-5)
