"""How long a reading takes, without and with assistance.

Times of reading are skewed, a few are very long: medians, and differences of logarithms, which are ratios.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64, Integer

from common.evaluation import bootstrap, paired
from common.evaluation.bootstrap import Estimate
from common.evaluation.readers import CONDITIONS, WITH, WITHOUT
from simulation.readers.findings import AVERAGE, DIFFERENCE, TIME, Finding
from simulation.readers.readings import Readings, counted

REPLICATES = 1000


def times(readings: Readings, *, seed: int) -> tuple[Finding, ...]:
    """Median and quartiles of each reader and condition, and with over without, patient by patient.

    The time of a reading is the one of the first session that has a time. The ratio is the mean over patients of a
    patient's mean difference of logarithms, over exams that a reader timed in both conditions, taken back from
    logarithms; for the average of readers, a patient's mean is over all of them. Nothing if no time was measured.
    """
    timed = counted(readings.table, np.isfinite(readings.table["seconds"]))
    if not timed.any():
        return ()
    table = {column: values[timed] for column, values in readings.table.items()}
    names = [AVERAGE, *sorted(set(table["reader"]))]
    return tuple(finding for name in names for finding in _of_reader(table, name, readings.conditions, seed))


def _of_reader(
    table: dict[str, np.ndarray], name: str, conditions: tuple[str, ...], seed: int
) -> Iterator[Finding]:
    mine = np.ones(len(table["reader"]), dtype=bool) if name == AVERAGE else table["reader"] == name
    for condition in conditions:
        use = mine & (table["condition"] == condition)
        if use.any():
            seconds, hidden = table["seconds"][use], np.nan_to_num(table["hidden_seconds"][use])
            low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
            yield Finding(
                part=TIME, metric="seconds_median", reader=name, condition=condition, exams=int(use.sum()),
                value=float(middle), low=float(low), high=float(high),
            )  # fmt: skip
            if np.isfinite(table["hidden_seconds"]).any():
                yield Finding(
                    part=TIME, metric="hidden_share", reader=name, condition=condition, exams=int(use.sum()),
                    value=float(hidden.sum() / (hidden.sum() + seconds.sum())),
                )  # fmt: skip
    if set(CONDITIONS) <= set(conditions):
        yield from _ratio({column: values[mine] for column, values in table.items()}, name, seed)


def _ratio(table: dict[str, np.ndarray], name: str, seed: int) -> Iterator[Finding]:
    logs: dict[str, dict[tuple[str, str], float]] = {condition: {} for condition in CONDITIONS}
    patient_of = dict(zip(table["exam_id"], table["patient"], strict=True))
    for reader, exam, condition, seconds in zip(
        *(table[column] for column in ("reader", "exam_id", "condition", "seconds")), strict=True
    ):
        logs[condition][reader, exam] = float(np.log(seconds))
    both = sorted(logs[WITH].keys() & logs[WITHOUT].keys())
    if not both:
        return
    apart = np.array([logs[WITH][key] - logs[WITHOUT][key] for key in both])
    _, patient = np.unique([str(patient_of[exam]) for _, exam in both], return_inverse=True)
    means = _patient_means(apart, patient)
    draws = bootstrap.resamples(len(means), replicates=REPLICATES, generator=np.random.default_rng(seed))
    found = _taken_back(means, draws)
    yield Finding(
        part=TIME, metric="seconds_ratio", reader=name, condition=DIFFERENCE, exams=len(both),
        value=found.value, low=found.low, high=found.high, p=paired.wilcoxon(means),
    )  # fmt: skip


def _patient_means(
    values: Float64[np.ndarray, " exams"], patient: Integer[np.ndarray, " exams"]
) -> Float64[np.ndarray, " patients"]:
    return np.asarray(np.bincount(patient, weights=values) / np.bincount(patient))


def _taken_back(
    means: Float64[np.ndarray, " patients"], draws: Int64[np.ndarray, "replicates patients"]
) -> Estimate:
    return bootstrap.summary(float(np.exp(means.mean())), np.exp(draws @ means / len(means)))
