"""Risk in words: advantage and false positives as closed forms and losses give them."""

import pytest
from scipy.special import ndtr

from common.privacy.accounting import accounting
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.audit import audit_report
from common.privacy.audit.risk import risk

WHOLE = PrivateSteps(sample_rate=1, noise_multiplier=10.78, count=60)


def test_steps_of_the_whole_cohort_are_one_gaussian() -> None:
    found, mu = risk([WHOLE]), accounting.gaussian_mu([WHOLE])
    assert found.advantage == pytest.approx(2 * ndtr(mu / 2) - 1, abs=1e-9)
    assert found.false_positives == pytest.approx(ndtr(-mu), abs=1e-9)
    assert "tossing a coin is right about 50; the best attack on all that left is right about 64" in str(
        found
    )
    assert "at least 24 of 100 who did not" in str(found)


def test_sampled_steps_are_bounded_by_their_losses() -> None:
    steps = [PrivateSteps(sample_rate=0.2, noise_multiplier=2.985, count=100)]
    found = risk(steps)
    assert found.advantage == pytest.approx(accounting.delta(steps, epsilon=0), abs=1e-6)
    assert 0.5 - found.advantage <= found.false_positives < 0.5
    more = risk([*steps, WHOLE])
    assert more.advantage > found.advantage
    assert more.false_positives < found.false_positives


def test_nothing_released_is_no_risk() -> None:
    assert (risk([]).advantage, risk([]).right) == (0.0, 0.5)


def test_odds_have_a_starting_point() -> None:
    told = audit_report.odds(3.0)
    assert "at most 20-fold" in told
    assert "odds of 50 to 50, it may become 95 for you; where it was 10 of 100, 69" in told
