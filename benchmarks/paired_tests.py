"""How often the test of two systems finds a difference that is not there, and one that is, as JSON.

    python benchmarks/paired_tests.py [STUDIES]

Each patient has four exams, graded 0 to 3. In the first three kinds of study the two systems are equal in the metric:

* ``alike``: they fail alike, each patient with a chance of his own.
* ``traded``: one never misses a positive exam and calls healthy ones positive, the other the reverse, so often that
  the metric of both is the same.
* ``throughout``: one fails in all exams of one patient in ten, the other in one exam in ten.
* ``worse``: the second fails in three exams of ten, the first in one, in the same manner. What is found is power.

``positive`` is the share of positive exams. For each metric, kind, share and number of patients the figure is the
share of studies with p <= 0.05: of ``swap_test``, and beside it of the difference alone, placed among swaps of the
study as it is, which was the test before. ``seconds`` is what one test costs with 9,999 permutations, 40 patients.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.evaluation import bootstrap, paired
from common.evaluation.agreement import accuracy, kappa
from common.evaluation.paired import Metric
from common.evaluation.roc import sensitivity, youden

EXAMS, GRADES, SPREAD, PERMUTATIONS = 4, 4, 3.0, 499
RARE, MORE = 0.1, 0.3
METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "kappa_linear": partial(kappa, weights="linear"),
    "youden": partial(youden, cut=0),
    "sensitivity": partial(sensitivity, cut=0),
}
Study = tuple[np.ndarray, np.ndarray]
Failing = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
"""Which exams a system gets wrong, given patient and truth of each."""


def grade_shares(positive: float) -> np.ndarray:
    return np.array([1 - positive, positive / 2, positive / 4, positive / 4])


def study(
    generator: np.random.Generator, patients: int, positive: float, systems: tuple[Failing, ...]
) -> Study:
    """Two systems' confusion matrices by patient; a wrong answer is one grade too low, of grade 0 one too high."""
    patient = np.repeat(np.arange(patients), EXAMS)
    share = generator.beta(2 * positive, 2 * (1 - positive), patients)[patient]
    severity = generator.choice([1, 2, 3], p=grade_shares(positive)[1:] / positive, size=len(patient))
    truth = np.where(generator.random(len(patient)) < share, severity, 0)
    wrong = np.where(truth > 0, truth - 1, 1)
    first, second = (
        bootstrap.patient_confusions(
            truth,
            np.where(fails(generator, patient, truth), wrong, truth),
            patient,
            grades=GRADES,
            patients=patients,
        )
        for fails in systems
    )
    return first, second


def patients_own(rate: float, kind: Callable[[np.ndarray], np.ndarray] = np.ones_like) -> Failing:
    """Each patient has a chance of failure of his own, ``rate`` on average; of exams of one kind only."""

    def fails(generator: np.random.Generator, patient: np.ndarray, truth: np.ndarray) -> np.ndarray:
        chance = generator.beta(rate * SPREAD, (1 - rate) * SPREAD, patient.max() + 1)[patient]
        failed: np.ndarray = (generator.random(len(truth)) < chance) & kind(truth).astype(bool)
        return failed

    return fails


def throughout(rate: float) -> Failing:
    return lambda generator, patient, truth: (generator.random(patient.max() + 1) < rate)[patient]


def scattered(rate: float) -> Failing:
    return lambda generator, patient, truth: generator.random(len(truth)) < rate


def traded(metric: Metric, positive: float) -> tuple[Failing, ...]:
    """One system fails in healthy exams, the other in positive ones, with rates that make the metric the same."""

    def expected(healthy: float, ill: float) -> float:
        rates = np.array([healthy, ill, ill, ill])
        pooled = np.diag(grade_shares(positive) * (1 - rates))
        for grade, rate in enumerate(rates):
            pooled[grade, grade - 1 if grade else 1] += grade_shares(positive)[grade] * rate
        return float(metric(pooled))

    healthy = 0.3 if metric is METRICS["youden"] else min(MORE, 0.8 * positive / (1 - positive))
    ill = brentq(lambda rate: expected(healthy, 0) - expected(0, rate), 0, 1 - 1e-9)
    return patients_own(healthy, lambda truth: truth == 0), patients_own(ill, lambda truth: truth > 0)


def difference_alone(metric: Metric, first: np.ndarray, second: np.ndarray, swaps: np.ndarray) -> float:
    """The test before: the difference placed among swaps of the study as it is."""
    moved = bootstrap.replicate_confusions(first - second, swaps)
    before, after = first.sum(axis=0) - moved, second.sum(axis=0) + moved
    drawn = np.abs(np.asarray(metric(before)) - np.asarray(metric(after)))
    return float((~(drawn < drawn[0] - 1e-12)).mean())


def swaps(generator: np.random.Generator, patients: int, permutations: int) -> np.ndarray:
    drawn = generator.integers(0, 2, size=(permutations, patients))
    return np.concatenate([np.zeros((1, patients), dtype=np.int64), drawn])


def found(
    studies: int, patients: int, positive: float, metric: Metric, systems: tuple[Failing, ...]
) -> dict[str, float]:
    generator = np.random.default_rng(0)
    new, before = [], []
    for _ in range(studies):
        pair = study(generator, patients, positive, systems)
        new.append(paired.swap_test(metric, *pair, generator=generator, permutations=PERMUTATIONS) <= 0.05)
        before.append(difference_alone(metric, *pair, swaps(generator, patients, PERMUTATIONS)) <= 0.05)
    return {"test": round(float(np.mean(new)), 4), "before": round(float(np.mean(before)), 4)}


def kinds(metric: Metric, positive: float) -> dict[str, tuple[Failing, ...]]:
    equal = {
        "alike": (patients_own(MORE), patients_own(MORE)),
        "traded": traded(metric, positive),
        "throughout": (throughout(RARE), scattered(RARE)),
        "worse": (patients_own(RARE), patients_own(MORE)),
    }
    if metric is METRICS["sensitivity"]:  # systems that trade it are not equal in it
        del equal["traded"]
    return equal


def seconds(metric: Metric) -> dict[str, float]:
    generator = np.random.default_rng(0)
    pair = study(generator, 40, 0.35, (patients_own(RARE), patients_own(2 * MORE)))

    def cost(test: Callable[[], object]) -> float:
        begun = time.process_time()
        for _ in range(5):
            test()
        return (time.process_time() - begun) / 5

    test = cost(lambda: paired.swap_test(metric, *pair, generator=generator))
    before = cost(lambda: difference_alone(metric, *pair, swaps(generator, 40, paired.PERMUTATIONS)))
    return {"test": round(test, 4), "before": round(before, 4), "ratio": round(test / before, 1)}


if __name__ == "__main__":
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    result: dict[str, object] = {
        "studies": studies,
        "seconds": {name: seconds(m) for name, m in METRICS.items()},
    }
    for name, metric in METRICS.items():
        result[name] = {
            f"positive {positive}": {
                kind: {n: found(studies, n, positive, metric, systems) for n in (20, 40, 100)}
                for kind, systems in kinds(metric, positive).items()
            }
            for positive in (0.1, 0.35)
        }
    print(json.dumps(result, indent=1))
