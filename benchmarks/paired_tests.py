"""How often the swap test finds a difference that is not there, as JSON.

    python benchmarks/paired_tests.py [STUDIES]

``exchangeable``: two systems that fail alike. The others are equal in Youden's index and fail differently: one never
misses a positive exam and calls three negative ones in ten positive, the other the reverse; ``positives`` is the
share of positive exams. Each patient has four exams and a chance of failure of his own. The figure is the share of
studies with p <= 0.05: at most 0.05 is what the test promises where the systems fail alike.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.evaluation import bootstrap, paired
from common.evaluation.roc import youden

EXAMS, FAILURE, SPREAD = 4, 0.3, 3.0


def systems(generator: np.random.Generator, patients: int, positives: float, *, alike: bool):
    patient = np.repeat(np.arange(patients), EXAMS)
    share = generator.beta(2 * positives, 2 * (1 - positives), patients)[patient]
    truth = (generator.random(len(patient)) < share).astype(int)
    fails = [
        generator.random(len(patient))
        < generator.beta(FAILURE * SPREAD, (1 - FAILURE) * SPREAD, patients)[patient]
        for _ in range(2)
    ]
    spared = (-1, -1) if alike else (1, 0)
    answers = [
        np.where(fail & (truth != kind), 1 - truth, truth) for fail, kind in zip(fails, spared, strict=True)
    ]
    return [bootstrap.patient_confusions(truth, one, patient, grades=2, patients=patients) for one in answers]


def error(studies: int, patients: int, positives: float, *, alike: bool) -> float:
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(studies):
        first, second = systems(generator, patients, positives, alike=alike)
        p = paired.swap_test(
            lambda confusion: youden(confusion, cut=0), first, second, generator=generator, permutations=999
        )
        found += p <= 0.05
    return found / studies


if __name__ == "__main__":
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    cases = {"exchangeable": (0.2, True), "positives 0.1": (0.1, False), "positives 0.35": (0.35, False)}
    print(
        json.dumps(
            {
                name: {patients: error(studies, patients, share, alike=alike) for patients in (20, 40, 100)}
                for name, (share, alike) in cases.items()
            },
            indent=1,
        )
    )
