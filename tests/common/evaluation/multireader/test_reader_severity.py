"""Habits of readers with known ones."""

import numpy as np
import pytest

from common.errors import DataError
from common.evaluation.multireader.reader_severity import _cost, _one_hot, habits
from common.exam import MISSING
from simulation.phantom.readers import draw_ordinary_readers, draw_severity, read_alone
from simulation.phantom.severity import draw_patient

EXAMS = 8


def severities(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patient of each exam, hypertrophy and vascularity in the phantom's mix."""
    grades = [draw_patient(rng, joints=EXAMS).grades for _ in range(patients)]
    hypertrophy, vascularity = (np.concatenate([pair[i] for pair in grades]) for i in range(2))
    return np.repeat(np.arange(patients), EXAMS), hypertrophy, vascularity


def graded(rng: np.random.Generator, truth: np.ndarray, habit: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Grades ``(exams, readers)`` of readers who are as the model says."""
    seen = (
        truth[:, None]
        + rng.random((len(truth), 1))
        + habit
        + noise * rng.normal(size=(len(truth), len(habit)))
    )
    return np.asarray(np.clip(np.floor(seen), 0, 3), dtype=np.int64)


@pytest.mark.parametrize(("spread", "noise", "error"), [(0.5, 1.9, 0.2), (0.2, 0.4, 0.07)])
def test_finds_known_habits_and_noise(spread: float, noise: float, error: float) -> None:
    held = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        patient, truth, _ = severities(rng, 40)
        habit, noises = rng.normal(0, spread, 6), noise * np.exp(rng.normal(0, 0.3, 6))
        found = habits(graded(rng, truth, habit, noises), patient, levels=4)
        middle = np.array([reader.habit.value for reader in found])
        true = habit - habit.mean()
        assert middle.mean() == pytest.approx(0, abs=1e-9)
        assert np.corrcoef(middle, true)[0, 1] > 0.9
        assert np.sqrt(np.square(middle - true).mean()) < error
        ratios = np.array([reader.noise.value for reader in found]) / noises
        assert np.abs(np.log(ratios)).max() < 0.45
        held += [
            reader.habit.low < value < reader.habit.high for reader, value in zip(found, true, strict=True)
        ]
    assert np.mean(held) > 0.8


@pytest.mark.parametrize("measurement", [0, 1])
def test_finds_the_habits_of_the_phantoms_readers(measurement: int) -> None:
    correlations, errors = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        patient, *truth = severities(rng, 60)
        people = draw_ordinary_readers(rng, count=6, prefix="x")
        grades = read_alone(rng, people, draw_severity(rng, *truth))[measurement]
        found = np.array([reader.habit.value for reader in habits(grades.T, patient, levels=4)])
        true = np.array([(one.hypertrophy_bias, one.vascularity_bias)[measurement] for one in people])
        correlations.append(np.corrcoef(found, true)[0, 1])
        errors.append(np.sqrt(np.square(found - (true - true.mean())).mean()))
    # A pair that cannot be is put right by the readers, which no model of one measurement knows: errors are larger.
    assert np.mean(correlations) > 0.9
    assert np.mean(errors) < 0.3


def test_readings_that_are_missing_make_estimates_wider() -> None:
    rng = np.random.default_rng(5)
    patient, truth, _ = severities(rng, 30)
    grades = graded(rng, truth, np.array([0.5, 0.0, 0.0, -0.5]), np.full(4, 0.6))
    whole = habits(grades, patient, levels=4)
    grades[rng.random(len(grades)) < 0.7, 0] = MISSING
    fewer = habits(grades, patient, levels=4)
    assert fewer[0].exams < 0.4 * whole[0].exams
    assert fewer[0].habit.high - fewer[0].habit.low > 1.3 * (whole[0].habit.high - whole[0].habit.low)
    assert fewer[0].habit.low < 0.5 < fewer[0].habit.high


def test_who_grades_alike_has_no_habit() -> None:
    same = np.zeros((20, 3), dtype=np.int64)
    for reader in habits(same, np.arange(20), levels=4):
        assert reader.habit.value == pytest.approx(0, abs=1e-6)
        assert np.isfinite([reader.noise.low, reader.noise.high]).all()


def test_derivative_is_that_of_the_cost() -> None:
    rng = np.random.default_rng(6)
    grades = rng.integers(-1, 4, (15, 3))
    given, place = _one_hot(grades, 4), rng.normal(0, 0.5, 6 + 21)
    steps = 1e-6 * np.eye(len(place))
    slope = [(_cost(place + step, given)[0] - _cost(place - step, given)[0]) / 2e-6 for step in steps]
    assert _cost(place, given)[1] == pytest.approx(np.array(slope), abs=1e-5)


def test_two_readers_are_refused() -> None:
    grades = np.zeros((4, 2), dtype=np.int64)
    with pytest.raises(DataError, match="which of two readers is unsteady cannot be told"):
        habits(grades, np.arange(4), levels=4)
    alone = np.column_stack([grades, np.full(4, MISSING)])
    with pytest.raises(DataError, match=r"got 3 readers and \[4, 4, 0\]"):
        habits(alone, np.arange(4), levels=4)
