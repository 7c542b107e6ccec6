import math
from collections.abc import Mapping
from functools import partial
from itertools import chain, repeat
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import ArrayLike

from common.errors import DataError
from common.evaluation import bootstrap
from common.evaluation.agreement import accuracy, kappa
from common.evaluation.own_patients import PERMUTATIONS, OwnPatients, Site, own_patients
from common.evaluation.paired import Metric, holm, swap_test

REPLICATES = 150
KAPPA = partial(kappa, weights="linear")


ExamRow: TypeAlias = tuple[int, int, int, int]


def exams(
    seed: int, *, patients: int, right_alone: float, right_federated: float, grades: int = 3
) -> list[ExamRow]:
    """(patient, truth, alone, federated) of each exam; patients have 1 to 5 exams."""
    generator = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        for _ in range(generator.integers(1, 6)):
            truth = int(generator.integers(0, grades))
            alone, federated = (
                truth if generator.random() < right else int(generator.integers(0, grades))
                for right in (right_alone, right_federated)
            )
            rows.append((patient, truth, alone, federated))
    return rows


def draws(seed: int, patients: int) -> np.ndarray:
    return bootstrap.resamples(patients, replicates=REPLICATES, generator=np.random.default_rng(seed))


def site(rows: list[ExamRow], drawn: np.ndarray, grades: int = 3) -> Site:
    patient, truth, alone, federated = np.array(rows).T
    tally = partial(
        bootstrap.patient_confusions, truth, patient=patient, grades=grades, patients=drawn.shape[1]
    )
    return Site(systems={"alone": tally(alone), "federated": tally(federated)}, draws=drawn)


def compared(sites: Mapping[str, Site], metric: Metric = accuracy) -> OwnPatients:
    return own_patients(sites, metric, systems=("alone", "federated"))


def counts(found: OwnPatients) -> tuple[int, int]:
    return found.losing["federated"], found.losing_clearly["federated"]


def brute_accuracy(rows: list[ExamRow], column: int, times: np.ndarray) -> float:
    weight = [times[row[0]] for row in rows]
    right = sum(w for w, row in zip(weight, rows, strict=True) if row[1] == row[column])
    return float(right / sum(weight))


def brute_gains(rows: list[ExamRow], drawn: np.ndarray) -> np.ndarray:
    """Of the exams as they are, then of each replicate, exam by exam."""
    once = np.ones(drawn.shape[1], dtype=int)
    return np.array(
        [brute_accuracy(rows, 3, times) - brute_accuracy(rows, 2, times) for times in [once, *drawn]]
    )


@pytest.fixture(scope="module")
def north() -> list[ExamRow]:
    return exams(1, patients=9, right_alone=0.9, right_federated=0.0)


@pytest.fixture(scope="module")
def south() -> list[ExamRow]:
    return exams(2, patients=14, right_alone=0.2, right_federated=0.9)


def test_gains_and_their_mean_against_counting_exam_by_exam(
    north: list[ExamRow], south: list[ExamRow]
) -> None:
    drawn = {"north": draws(11, 9), "south": draws(12, 14)}
    rows = {"north": north, "south": south}
    found = compared({name: site(rows[name], drawn[name]) for name in rows})
    gains = {name: brute_gains(rows[name], drawn[name]) for name in rows}
    for name, exam_rows in rows.items():
        got, expected = found.sites[name], gains[name]
        once = np.ones(drawn[name].shape[1], dtype=int)
        assert got.systems["alone"].value == pytest.approx(brute_accuracy(exam_rows, 2, once))
        assert got.systems["federated"].value == pytest.approx(brute_accuracy(exam_rows, 3, once))
        assert got.gains["federated"].value == pytest.approx(expected[0])
        assert (got.gains["federated"].low, got.gains["federated"].high) == pytest.approx(
            np.quantile(expected[1:], [0.025, 0.975])
        )
    mean = (gains["north"] + gains["south"]) / 2  # every site one vote, whatever its size
    assert found.mean.gains["federated"].value == pytest.approx(mean[0])
    assert (found.mean.gains["federated"].low, found.mean.gains["federated"].high) == pytest.approx(
        np.quantile(mean[1:], [0.025, 0.975])
    )
    assert found.mean.gains["federated"].value == pytest.approx(
        found.mean.systems["federated"].value - found.mean.systems["alone"].value
    )


def test_sites_that_lose_are_counted(north: list[ExamRow], south: list[ExamRow]) -> None:
    sites = {
        "loses": site(north, draws(1, 9)),
        "gains": site(south, draws(2, 14)),
        "the same": site([(p, t, a, a) for p, t, a, _ in north], draws(3, 9)),
    }
    found = compared(sites)
    assert found.sites["loses"].gains["federated"].high < 0 < found.sites["gains"].gains["federated"].low
    assert (found.judged, *counts(found)) == (3, 1, 1)
    assert found.sites["the same"].gains["federated"].value == 0


def test_a_small_loss_is_not_clear() -> None:
    one_worse = [(p, 0, 0, int(p == 0)) for p in range(10)]
    found = compared({"one": site(one_worse, draws(0, 10))})
    assert counts(found) == (1, 0)


def test_a_metric_that_differs_in_its_last_bits_is_no_loss(north: list[ExamRow]) -> None:
    same = site([(p, t, a, a) for p, t, a, _ in north], draws(3, 9))
    calls = chain([0.0, -1e-16], repeat(0.0))  # alone, then federated, then the test

    def noisy(confusions: ArrayLike) -> np.ndarray:
        return np.asarray(accuracy(confusions)) + next(calls)

    found = compared({"north": same}, noisy)
    assert counts(found) == (0, 0)


def test_pairing_makes_the_interval_of_equal_systems_nothing(north: list[ExamRow]) -> None:
    same = [(p, t, a, a) for p, t, a, _ in north]
    gain = compared({"north": site(same, draws(5, 9))}).mean.gains["federated"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_a_site_that_cannot_be_judged_is_left_out_of_mean_and_counts(north: list[ExamRow]) -> None:
    nobody = Site(
        systems=dict.fromkeys(("alone", "federated"), np.zeros((3, 3, 3), dtype=np.int64)),
        draws=draws(0, 3),
    )
    found = compared({"north": site(north, draws(1, 9)), "empty": nobody})
    assert math.isnan(found.sites["empty"].gains["federated"].value)
    assert found.judged == 1
    assert found.mean == found.sites["north"]
    one_grade = site([(p, 1, 1, 1) for p in range(4)], draws(4, 4))
    assert compared({"one": one_grade}, KAPPA).judged == 0


def test_no_sites_no_numbers() -> None:
    found = compared({})
    assert (found.judged, *counts(found)) == (0, 0, 0)
    assert math.isnan(found.mean.gains["federated"].value)


def test_exams_that_only_one_system_answered_are_refused(north: list[ExamRow]) -> None:
    whole = site(north, draws(1, 9))
    short = site(north[1:], draws(1, 9))
    with pytest.raises(DataError, match="the same exams of the same patients"):
        Site(
            systems={"alone": whole.systems["alone"], "federated": short.systems["federated"]},
            draws=whole.draws,
        )


def test_what_a_site_loses_beyond_chance_is_corrected_over_the_sites() -> None:
    """Five sites each lose a little; only together with the others' p is one of them called clear."""
    # Worse on eight patients of 16, with one against nine: eight or nine of them on one side, p = 2 (1 + 9) / 2^9.
    one = [(p, 0, 0, int(p < 8)) for p in range(16)]
    several = {name: site(one, draws(0, 16)) for name in "abcde"}
    (p,) = {
        swap_test(
            accuracy,
            found.systems["federated"],
            found.systems["alone"],
            generator=np.random.default_rng(0),
            permutations=PERMUTATIONS,
        )
        for found in several.values()
    }
    assert p == pytest.approx(20 / 2**9)
    assert counts(compared({"a": several["a"]})) == (1, 1)
    assert (holm([p] * 5) > 0.05).all()
    assert counts(compared(several)) == (5, 0)


def test_systems_beside_the_federation_are_compared_with_alone_too(north: list[ExamRow]) -> None:
    two = site(north, draws(1, 9))
    three = Site(systems={**two.systems, "personal": two.systems["alone"]}, draws=two.draws)
    found = own_patients({"north": three}, accuracy, systems=("alone", "federated", "personal"))
    assert found.mean.gains["federated"].value < 0 == found.mean.gains["personal"].value
    assert (found.losing["federated"], found.losing["personal"]) == (1, 0)
    assert found.sites["north"].systems["personal"] == found.sites["north"].systems["alone"]
