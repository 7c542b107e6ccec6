import numpy as np
import pytest

from common.errors import DataError
from common.evaluation import bootstrap, paired
from common.evaluation.agreement import accuracy, confusion, kappa


def study(
    seed: int = 0, patients: int = 30, exams: int = 6, right: float = 0.8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), exams)
    truth = generator.integers(0, 4, size=len(patient))
    predicted = np.where(
        generator.random(len(patient)) < right, truth, generator.integers(0, 4, size=len(patient))
    )
    return truth, predicted, patient


def test_patients_matrices_add_up() -> None:
    truth, predicted, patient = study()
    per_patient = bootstrap.patient_confusions(truth, predicted, patient, grades=4, patients=31)
    assert (per_patient.sum(axis=0) == confusion(truth, predicted, 4)).all()
    assert (per_patient[7] == confusion(truth[patient == 7], predicted[patient == 7], 4)).all()
    assert not per_patient[30].any()


def test_replicates_are_the_loop_over_drawn_patients() -> None:
    truth, predicted, patient = study(patients=6)
    per_patient = bootstrap.patient_confusions(truth, predicted, patient, grades=4, patients=6)
    weights = bootstrap.resamples(6, replicates=20, generator=np.random.default_rng(3))
    assert (weights.sum(axis=1) == 6).all()
    for row, matrix in zip(weights, bootstrap.replicate_confusions(per_patient, weights), strict=True):
        exams = np.concatenate([np.flatnonzero(patient == p) for p in np.repeat(np.arange(6), row)])
        assert (matrix == confusion(truth[exams], predicted[exams], 4)).all()


def test_the_interval_holds_the_value_and_narrows_with_patients() -> None:
    widths = []
    for patients in (20, 500):
        truth, predicted, patient = study(patients=patients)
        per_patient = bootstrap.patient_confusions(truth, predicted, patient, grades=4, patients=patients)
        weights = bootstrap.resamples(patients, replicates=500, generator=np.random.default_rng(1))
        got = bootstrap.estimate(lambda c: kappa(c, weights="linear"), per_patient, weights)
        assert got.low < got.value < got.high
        widths.append(got.high - got.low)
    assert widths[1] < widths[0] / 3


def test_patients_that_are_all_alike_within_give_a_wider_interval_than_exams() -> None:
    # Each patient is wholly right or wholly wrong: 20 independent facts, however many exams.
    right = np.repeat(np.arange(20) % 2, 25)
    truth = np.ones(500, dtype=int)
    for patient, patients in ((np.repeat(np.arange(20), 25), 20), (np.arange(500), 500)):
        per_patient = bootstrap.patient_confusions(truth, right, patient, grades=2, patients=patients)
        weights = bootstrap.resamples(patients, replicates=2000, generator=np.random.default_rng(2))
        got = bootstrap.estimate(accuracy, per_patient, weights)
        expected = 2 * 1.96 * np.sqrt(0.25 / patients)
        assert got.high - got.low == pytest.approx(expected, rel=0.15)


def test_a_paired_difference_of_a_system_with_itself_is_zero() -> None:
    truth, predicted, patient = study()
    same = bootstrap.patient_confusions(truth, predicted, patient, grades=4, patients=30)
    weights = bootstrap.resamples(30, replicates=100, generator=np.random.default_rng(4))
    got = paired.compare(accuracy, same, same, weights=weights, generator=np.random.default_rng(0))
    assert (got.value, got.low, got.high) == (0, 0, 0)


def test_pairing_removes_what_two_systems_share() -> None:
    truth, predicted, patient = study(right=0.5)
    better = np.where(np.arange(len(truth)) % 6 == 0, truth, predicted)
    both = [
        bootstrap.patient_confusions(truth, p, patient, grades=4, patients=30) for p in (better, predicted)
    ]
    weights = bootstrap.resamples(30, replicates=1000, generator=np.random.default_rng(5))
    found = paired.compare(accuracy, both[0], both[1], weights=weights, generator=np.random.default_rng(0))
    alone = [bootstrap.estimate(accuracy, system, weights) for system in both]
    assert found.value == pytest.approx(alone[0].value - alone[1].value)
    assert found.high - found.low < sum(e.high - e.low for e in alone) / 2


def test_no_patients_and_nan_replicates() -> None:
    none = bootstrap.patient_confusions(
        np.array([], dtype=int), np.array([], dtype=int), np.array([], dtype=int), grades=4, patients=0
    )
    weights = bootstrap.resamples(0, replicates=10, generator=np.random.default_rng(0))
    got = bootstrap.estimate(accuracy, none, weights)
    assert np.isnan([got.value, got.low, got.high]).all()
    assert bootstrap.summary(0.5, [0.4, np.nan, 0.4]).low == 0.4


def test_a_patient_out_of_range_is_refused() -> None:
    with pytest.raises(DataError, match=r"patient index in 0\.\.1"):
        bootstrap.patient_confusions([0], [0], np.array([2]), grades=2, patients=2)
