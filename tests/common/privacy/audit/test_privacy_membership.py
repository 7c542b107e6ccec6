import math

import numpy as np
import pytest

from common.errors import ConfigurationError
from common.privacy.audit.membership import membership

FOLDS = 5


def losses(
    rng: np.random.Generator, *, patients: int, memory: float, folds: int = FOLDS
) -> tuple[np.ndarray, np.ndarray]:
    """Patients who are hard or easy for all networks, and easier by ``memory`` for those that they trained."""
    fold = rng.integers(0, folds, patients)
    hard = rng.exponential(1.0, patients)
    trained = np.arange(folds)[:, None] != fold
    return hard + rng.normal(0, 0.1, (folds, patients)) - memory * trained, fold


def test_networks_that_remember_everybody_are_found_out() -> None:
    found = membership(*losses(np.random.default_rng(0), patients=500, memory=2.0))
    assert found.area == 1.0
    assert found.bound == found.ceiling > 2
    assert (found.patients, found.folds) == (500, FOLDS)


def test_a_little_memory_shows_in_the_area_and_a_little_in_the_bound() -> None:
    found = membership(*losses(np.random.default_rng(0), patients=1000, memory=0.2))
    assert 0.8 < found.area < 0.95
    assert 0 < found.bound < found.ceiling


def test_the_yardstick_takes_out_how_hard_a_patient_is() -> None:
    """Without one, with two folds, the same memory hardly shows."""
    given = {"patients": 400, "memory": 0.3}
    with_it = membership(*losses(np.random.default_rng(1), **given))  # type: ignore[arg-type]
    without = membership(*losses(np.random.default_rng(1), folds=2, **given))  # type: ignore[arg-type]
    assert with_it.area > 0.95
    assert without.area < 0.75


@pytest.mark.soak
def test_networks_that_remember_nobody_are_hardly_ever_accused() -> None:
    accused = [
        membership(*losses(np.random.default_rng(seed), patients=200, memory=0.0)).bound > 0
        for seed in range(100)
    ]
    assert np.mean(accused) <= 0.08


def test_a_mechanism_of_known_epsilon_is_not_accused_of_more() -> None:
    """Each network tells of each patient by randomised response at epsilon 1 whether it was in."""
    wrong = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        fold = rng.integers(0, 2, 400)
        trained = np.arange(2)[:, None] != fold
        told = trained ^ (rng.random((2, 400)) > math.e / (1 + math.e))
        wrong.append(membership(-told.astype(np.float64), fold).bound > 1)
    assert np.mean(wrong) <= 0.1


def test_what_cannot_be_audited_is_refused() -> None:
    given, fold = losses(np.random.default_rng(0), patients=100, memory=0.0)
    with pytest.raises(ConfigurationError, match="at least two folds"):
        membership(given[:1], np.zeros_like(fold))
    with pytest.raises(ConfigurationError, match="finite"):
        membership(np.where(given > 1, np.nan, given), fold)
    with pytest.raises(ConfigurationError, match="finite losses"):
        membership(given[:3], fold)
    with pytest.raises(ConfigurationError, match="at least 10 patients"):
        membership(given[:, :15], fold[:15])
