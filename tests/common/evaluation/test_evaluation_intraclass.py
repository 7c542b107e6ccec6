import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.evaluation import bootstrap
from common.evaluation.agreement import confusion
from common.evaluation.intraclass import icc, raters_icc

# Shrout and Fleiss 1979, table 2: six targets, four judges.
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
NONE = np.zeros((0, 6), dtype=np.int64)


def draws(patients: int, replicates: int = 300) -> np.ndarray:
    return bootstrap.resamples(patients, replicates=replicates, generator=np.random.default_rng(0))


def by_anova(grades: np.ndarray) -> float:
    """ICC(2,1) by the mean squares of a two-way table, as the source defines them."""
    exams, raters = grades.shape
    mean, by_exam, by_rater = grades.mean(), grades.mean(axis=1), grades.mean(axis=0)
    bms = raters * np.square(by_exam - mean).sum() / (exams - 1)
    jms = exams * np.square(by_rater - mean).sum() / (raters - 1)
    rest = grades - by_exam[:, None] - by_rater + mean
    ems = np.square(rest).sum() / ((exams - 1) * (raters - 1))
    return float((bms - ems) / (bms + (raters - 1) * ems + raters * (jms - ems) / exams))


def test_golden_value_of_shrout_and_fleiss() -> None:
    got = raters_icc(JUDGES, np.arange(6), NONE)
    assert round(got.value, 2) == 0.29, "their table 4"
    assert np.isnan(got.low)
    assert got.value == pytest.approx(by_anova(JUDGES))


@given(st.integers(0, 1000))
def test_reference_and_prediction_are_two_raters(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 4, 30)
    predicted = np.clip(truth + generator.integers(-1, 2, 30), 0, 3)
    both = np.stack([truth, predicted], axis=1)
    got = icc(confusion(truth, predicted, 4))
    assert got == pytest.approx(by_anova(both))
    assert raters_icc(both, np.arange(30), draws(30, 1)).value == pytest.approx(got)


def test_the_interval_is_of_patients_drawn_with_all_their_exams() -> None:
    generator = np.random.default_rng(1)
    patient = np.repeat(np.arange(10), 4)
    grades = np.clip(generator.integers(0, 4, 40)[:, None] + generator.integers(-1, 2, (40, 3)), 0, 3)
    weights = draws(10)
    got = raters_icc(grades, patient, weights)
    drawn = [
        by_anova(np.concatenate([grades[patient == p] for p in np.repeat(np.arange(10), w)])) for w in weights
    ]
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert got.low < got.value < got.high


def test_a_rater_who_grades_one_higher_agrees_less() -> None:
    truth = np.tile([0, 1, 2], 10)
    assert icc(confusion(truth, truth, 4)) == pytest.approx(1)
    assert icc(confusion(truth, truth + 1, 4)) == pytest.approx(
        by_anova(np.stack([truth, truth + 1], axis=1))
    )
    assert icc(confusion(truth, truth + 1, 4)) < 0.7


def test_edges() -> None:
    alike = np.diag([0, 5, 0, 0])
    assert np.isnan(icc(alike))
    assert np.isnan(icc(np.zeros((4, 4))))
    assert np.isnan(icc(np.stack([alike, np.zeros((4, 4))]))).all()
    assert np.isnan(raters_icc(JUDGES[:, :1], np.arange(6), draws(6)).value)
    assert np.isnan(raters_icc(JUDGES[:1], np.array([0]), draws(1)).value)


def test_the_table_of_shrout_and_fleiss_in_both_forms() -> None:
    """Shrout and Fleiss 1979, tables 2 and 4: ICC(2,1) 0.29, ICC(3,1) 0.71."""
    table = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    patient, weights = np.arange(6), np.ones((1, 6), dtype=np.int64)
    agreement = raters_icc(table, patient, weights)
    consistency = raters_icc(table, patient, weights, of="consistency")
    assert (round(agreement.value, 2), round(consistency.value, 2)) == (0.29, 0.71)
    shifted = table + np.array([0, 3, -1, 7])
    assert raters_icc(shifted, patient, weights, of="consistency").value == pytest.approx(consistency.value)
    assert raters_icc(shifted, patient, weights).value != pytest.approx(agreement.value)
