"""How often Obuchowski and Rockette's analysis finds a difference between conditions that is not there, as JSON.

    python benchmarks/readers_random.py [STUDIES]

Assistance changes nothing on average over all readers and patients, but each reader and each patient's exams are read
better or worse with it, by chance (the model of Roe and Metz 1997, with exams within patients and grades 0-3). For
each figure of merit, number of readers and number of patients:

* ``random``, ``fixed``: share of studies with p <= 0.05. The first is to be 0.05. The second is not, as it takes
  these readers for all readers: it shows how wrong that is.
* ``width``: width of the interval of ``random`` over that of ``fixed``, means over the studies.
* ``narrower``: share of studies in which the first is the narrower one.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.evaluation.agreement import accuracy, kappa
from common.evaluation.bootstrap import patient_confusions
from common.evaluation.multireader.obuchowski_rockette import analyse
from common.evaluation.paired import Metric
from common.evaluation.roc import grades_auc, youden

EXAMS, GRADES = 3, 4
METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "kappa_linear": partial(kappa, weights="linear"),
    "youden_0|123": partial(youden, cut=0),
    "auc_0|123": partial(grades_auc, cut=0),
}


def null_study(rng: np.random.Generator, *, readers: int, patients: int) -> np.ndarray:
    """Confusion matrices (2, readers, patients, grades, grades) of a study in which assistance changes nothing."""
    patient = np.repeat(np.arange(patients), EXAMS)
    severity = np.abs(rng.normal(0, 1.2, patients)[patient] + rng.normal(0, 0.8, len(patient)))
    truth = np.clip(np.floor(severity), 0, GRADES - 1).astype(np.int64)
    seen = (
        severity
        + rng.normal(0, 0.3, (1, readers, 1))
        + rng.normal(0, 0.25, (2, readers, 1))
        + rng.normal(0, 0.4, patients)[patient]
        + rng.normal(0, 0.3, (2, 1, patients))[..., patient]
        + rng.normal(0, 0.5, (2, readers, len(patient)))
    )
    graded = np.clip(np.floor(seen), 0, GRADES - 1).astype(np.int64)
    each = [
        patient_confusions(truth, row, patient, grades=GRADES, patients=patients)
        for row in graded.reshape(2 * readers, -1)
    ]
    return np.reshape(each, (2, readers, patients, GRADES, GRADES))


def found(studies: int, metric: Metric, readers: int, patients: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    each = [analyse(metric, null_study(rng, readers=readers, patients=patients)) for _ in range(studies)]
    random, fixed = [one.random for one in each if one.random], [one.fixed for one in each if one.fixed]
    widths = np.array([[one.high - one.low for one in kind] for kind in (random, fixed)])
    whole = widths[:, np.isfinite(widths).all(axis=0)]
    return {
        "random": round(float(np.mean([one.p <= 0.05 for one in random])), 4),
        "fixed": round(float(np.mean([one.p <= 0.05 for one in fixed])), 4),
        "width": round(float(whole[0].mean() / whole[1].mean()), 2),
        "narrower": round(float((whole[0] < whole[1]).mean()), 3),
    }


if __name__ == "__main__":
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    result: dict[str, object] = {"studies": studies}
    for name, metric in METRICS.items():
        result[name] = {
            f"{readers} readers": {
                f"{patients} patients": found(studies, metric, readers, patients)
                for patients in (20, 40, 100)
            }
            for readers in (3, 5, 10)
        }
    print(json.dumps(result, indent=1))
