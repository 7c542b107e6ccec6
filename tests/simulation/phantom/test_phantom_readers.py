from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from simulation.phantom.devices import FITTED
from simulation.phantom.patients import Patient, make_patient


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return [
        make_patient(5, f"site-{number}", index, device, exams=12, roi_px=64)
        for number, device in enumerate(FITTED)
        for index in range(12)
    ]


def test_readers_agree_as_trained_readers_do(patients: list[Patient]) -> None:
    for name, low, high in (("hypertrophy", 0.80, 0.93), ("vascularity", 0.73, 0.88)):
        grades = np.concatenate([getattr(patient, name) for patient in patients], axis=1)
        kappas = [
            cohen_kappa_score(grades[a], grades[b], weights="linear") for a, b in combinations(range(3), 2)
        ]
        assert low < np.mean(kappas) < high


def test_readers_are_near_the_truth_but_not_at_it(patients: list[Patient]) -> None:
    truth = np.concatenate([patient.exams.severity.grades[0] for patient in patients])
    consensus = np.median(np.concatenate([patient.hypertrophy for patient in patients], axis=1), axis=0)
    assert 0.85 < (consensus == truth).mean() < 0.99


def test_readers_give_valid_pairs(patients: list[Patient]) -> None:
    for patient in patients:
        assert not ((patient.hypertrophy == 0) & (patient.vascularity > 0)).any()
        assert set(np.unique(patient.hypertrophy)) <= {0, 1, 2, 3}


def test_a_site_has_the_same_readers_for_all_patients() -> None:
    first, second = (make_patient(5, "site-a", 0, FITTED[0], exams=4, roi_px=64) for _ in range(2))
    assert (first.hypertrophy == second.hypertrophy).all()
