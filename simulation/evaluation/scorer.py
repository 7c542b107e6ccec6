"""Scores sets of held-out exams: confusion matrices by patient, metrics with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from common.evaluation import bootstrap, paired, roc, tasks
from common.evaluation.agreement import METRICS, Values, pearson, spearman
from common.evaluation.bootstrap import Estimate
from common.evaluation.intraclass import icc
from common.evaluation.one_vs_rest import one_vs_rest
from common.exam import MISSING
from common.networks.spec import COMBINED
from common.scoring import eoss, validity
from common.settings import Settings

CORRELATIONS: Mapping[str, Callable[[ArrayLike], Values]] = {
    "spearman": spearman,
    "pearson": pearson,
    "icc": icc,
}
"""Said of each system beside the metrics by which systems are compared."""

Block: TypeAlias = dict[str, object]
Tally: TypeAlias = Mapping[str, Int64[np.ndarray, "patients grades grades"]]
"""Measurement -> one confusion matrix per patient."""
Draws: TypeAlias = Int64[np.ndarray, "replicates patients"]
"""How often each patient is drawn in each bootstrap replicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """The patients of a set of exams: the units that are drawn."""

    index: pd.MultiIndex

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Patients:
        """The patients of a table, told apart by (site, patient_id), in sorted order."""
        keys = pd.MultiIndex.from_frame(frame[["site", "patient_id"]].astype(str))
        return cls(index=keys.unique().sort_values())

    def number(self, frame: pd.DataFrame) -> Int64[np.ndarray, " exams"]:
        """Index of each exam's patient, -1 if not among them."""
        keys = pd.MultiIndex.from_frame(frame[["site", "patient_id"]].astype(str))
        return np.asarray(self.index.get_indexer(keys), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Scores sets of exams of one study against one reference.

    Attributes:
        settings: measurements, grades, validity and the number of bootstrap replicates.
        graded: what has a decision, of the measurements and the combined score.
        seed: of the bootstrap.
        source: prefix of the reference's columns: ``truth`` or ``label``.
    """

    settings: Settings
    graded: tuple[str, ...]
    seed: int
    source: str

    def grades(self) -> dict[str, int]:
        """Number of grades of each measurement that has a decision, and of the combined score where there is one."""
        grades = {name: m.grades for name, m in self.settings.measurements.items()} | {COMBINED: eoss.GRADES}
        return {name: count for name, count in grades.items() if name in self.graded}

    def weights(self, patients: Patients) -> Draws:
        """Bootstrap draws of some patients; equal sets are drawn alike, so that systems are paired."""
        return _draws(len(patients), self.settings.evaluate.bootstrap, self.seed)

    def pool(self, frame: pd.DataFrame) -> Block:
        """Everything about one set of exams scored by the run's own answer."""
        patients = Patients.of(frame)
        block: Block = {"exams": len(frame), "patients": len(patients)}
        block |= self.block([self.tally(frame, patients)], self.weights(patients))
        block["invalid_pairs"] = self.invalid_pairs(frame, "decision")
        if "contested" in frame:
            block["contested"] = float(frame["contested"].astype(bool).mean()) if len(frame) else None
        if "tie" in frame:
            block["ties"] = self._ties(frame, patients)
        block["devices_used"] = sorted(frame["device"].astype(str).unique().tolist())
        block["trained"] = bool(frame["trained_site"].astype(bool).any())
        return block

    def _ties(self, frame: pd.DataFrame, patients: Patients) -> Block:
        """Answers that a rule about ties chose (:class:`common.ensemble.committee.Scores`), how many are right."""
        tied = frame[frame["tie"].astype(bool)]
        share = len(tied) / len(frame) if len(frame) else None
        right = self.block([self.tally(tied, patients)], self.weights(patients), metrics=("accuracy",))
        counts: Block = {"exams": len(tied), "share": share}
        if self.settings.rating.decision == "multitude" and "runner_up_weight" in tied:
            counts["equal_weights"] = int((tied["weight"] == tied["runner_up_weight"]).sum())
        return {**counts, **right}

    def answers(self, frame: pd.DataFrame, source: str) -> dict[str, Int64[np.ndarray, " exams"]]:
        """Grades of one source of columns, ``MISSING`` where none, with the combined score (given, or the larger)."""
        columns = {name: grades_in(frame, f"{source}_{name}") for name in self.settings.measurements}
        if f"{source}_{COMBINED}" in frame:
            columns[COMBINED] = grades_in(frame, f"{source}_{COMBINED}")
        elif self.settings.validity == "eoss":
            h, v = columns["hypertrophy"], columns["vascularity"]
            columns[COMBINED] = eoss.combined_or_missing(h, v)
        return columns

    def invalid_pairs(self, frame: pd.DataFrame, source: str) -> int:
        """How many exams got a combination that cannot be."""
        if self.settings.validity == "any":
            return 0
        grades = self.answers(frame, source)
        given = np.stack([grades[name] for name in self.settings.measurements])
        whole = given[:, (given != MISSING).all(axis=0)]
        return int((~validity.possible(self.settings)[tuple(whole)]).sum())

    def tally(self, frame: pd.DataFrame, patients: Patients, source: str = "decision") -> Tally:
        """Confusion matrices by patient of one source of answers against the reference."""
        number = patients.number(frame)
        reference, answer = self.answers(frame, self.source), self.answers(frame, source)
        tally = {}
        for name, grades in self.grades().items():
            use = (reference[name] != MISSING) & (answer[name] != MISSING) & (number >= 0)
            tally[name] = bootstrap.patient_confusions(
                reference[name][use], answer[name][use], number[use], grades=grades, patients=len(patients)
            )
        return tally

    def block(
        self,
        system: Sequence[Tally],
        weights: Draws,
        *,
        metrics: Sequence[str] = (*METRICS, *CORRELATIONS),
    ) -> Block:
        """Metrics of a system; several tallies are several systems whose mean is reported."""
        block: Block = {}
        known = {**METRICS, **CORRELATIONS}
        for name in self.grades():
            values: Block = {m: interval(*_mean(known[m], system, name, weights)) for m in metrics}
            if len(system) == 1:
                counts = system[0][name].sum(axis=0)
                values |= {"confusion": counts.tolist(), "exams": int(counts.sum())}
            block[name] = values
        return block

    def rates(self, system: Sequence[Tally], weights: Draws) -> Block:
        """Accuracy and Youden's index at each cut, of each score; several tallies are several systems' mean."""
        block: Block = {}
        for name, grades in self.grades().items():
            cuts = {f"gt{cut}": partial(roc.youden, cut=cut) for cut in range(grades - 1)}
            youden = {cut: interval(*_mean(rate, system, name, weights)) for cut, rate in cuts.items()}
            accuracy = interval(*_mean(METRICS["accuracy"], system, name, weights))
            block[name] = {"accuracy": accuracy, "youden": youden}
        return block

    def difference(
        self,
        first: Sequence[Tally],
        second: Sequence[Tally],
        weights: Draws,
    ) -> Block:
        """First minus second, paired by drawn patients; p of accuracy by patient (:func:`paired.signed_rank`)."""
        block: Block = {}
        for name in self.grades():
            values: Block = {}
            for label, metric in METRICS.items():
                a, b = _mean(metric, first, name, weights), _mean(metric, second, name, weights)
                values[label] = interval(a[0] - b[0], a[1] - b[1])
            sides = (np.stack([tally[name] for tally in side]) for side in (first, second))
            block[name] = {**values, "p_signed_rank": paired.signed_rank(*sides)}
        return block

    def binary(self, frame: pd.DataFrame, thresholds: Mapping[str, float]) -> Block:
        """Each binary task: its networks' AUC and rates, and what the decision gives at the same cut.

        ``auc`` is the networks' mean with an interval over patients; ``over_networks`` has means with RATING's
        interval over the networks (:mod:`common.evaluation.tasks`), each at its own threshold.
        """
        patients = Patients.of(frame)
        weights, number = self.weights(patients), patients.number(frame)
        reference, tally = self.answers(frame, self.source), self.tally(frame, patients)
        result: Block = {}
        for name, grades in self.grades().items():
            tasks: Block = {}
            for cut in range(grades - 1):
                graded = reference[name] != MISSING
                scores = networks_of_task(frame[graded], name, cut)
                tasks[f"gt{cut}"] = {
                    **_task_auc(scores, reference[name][graded] > cut, weights[:, number[graded]]),
                    "over_networks": _over_networks(scores, reference[name][graded] > cut, thresholds),
                    "decision": _cut(tally[name], cut, weights),
                }
            result[name] = tasks
        return result

    def one_vs_rest(self, frame: pd.DataFrame) -> Block:
        """Each measurement's grades by the networks' mean probabilities, where some network knows every cut."""
        patients = Patients.of(frame)
        weights, number = self.weights(patients), patients.number(frame)
        reference = self.answers(frame, self.source)
        result: Block = {}
        for name, grades in self.grades().items():
            scores, graded = likeliness(frame, name, grades=grades), reference[name] != MISSING
            if scores is not None and graded.any():
                found = one_vs_rest(scores[graded], reference[name][graded], weights[:, number[graded]])
                result[name] = {
                    "grades": [_json(one) for one in found.grades],
                    "mean": _json(found.mean),
                    "prevalence_weighted": _json(found.prevalence_weighted),
                }
        return result


@lru_cache(maxsize=64)
def _draws(patients: int, replicates: int, seed: int) -> Draws:
    # From the seed each time: sets of patients are drawn alike whatever was scored before them.
    return bootstrap.resamples(patients, replicates=replicates, generator=np.random.default_rng(seed))


def _mean(
    metric: Callable[[ArrayLike], Values],
    system: Sequence[Tally],
    name: str,
    weights: Draws,
) -> tuple[float, Float64[np.ndarray, " replicates"]]:
    value = float(np.mean([float(metric(tally[name].sum(axis=0))) for tally in system]))
    drawn = [np.asarray(metric(bootstrap.replicate_confusions(tally[name], weights))) for tally in system]
    return value, np.asarray(np.mean(drawn, axis=0), dtype=np.float64)


def interval(value: float, replicates: ArrayLike) -> Block:
    """An entry of ``metrics.json``: a value and the interval of its bootstrap replicates."""
    return _json(bootstrap.summary(value, replicates))


def _json(estimate: Estimate) -> Block:
    return {"value": estimate.value, "ci95": [estimate.low, estimate.high]}


def _task_auc(
    scores: pd.DataFrame, labels: np.ndarray, weights: Int64[np.ndarray, "replicates exams"]
) -> Block:
    if scores.shape[1] == 0:
        return {"auc": None, "networks": 0}
    every = np.ones((1, len(labels)))
    values, drawn = [], []
    for column in scores.columns:
        p = scores[column].to_numpy(dtype=np.float64)
        values.append(roc.weighted_auc(p, labels, every)[0])
        drawn.append(roc.weighted_auc(p, labels, weights))
    return {"auc": interval(float(np.mean(values)), np.mean(drawn, axis=0)), "networks": scores.shape[1]}


def _over_networks(scores: pd.DataFrame, labels: np.ndarray, thresholds: Mapping[str, float]) -> Block:
    """RATING's figures of a task: means over its networks, +-1.96 sigma / sqrt(networks)."""
    if scores.shape[1] == 0 or not len(scores):
        return {}
    wanted = [thresholds.get(str(column).removeprefix("p:"), 0.5) for column in scores.columns]
    rates = tasks.task(scores.to_numpy(dtype=np.float64), labels, wanted)
    return {
        name: {"value": rate.value, "ci95": [rate.low, rate.high], "networks": rate.networks}
        for name, rate in rates.items()
    }


def _cut(
    per_patient: Int64[np.ndarray, "patients grades grades"],
    cut: int,
    weights: Draws,
) -> Block:
    rates = {"sensitivity": roc.sensitivity, "specificity": roc.specificity, "youden": roc.youden}
    block: Block = {}
    for name, rate in rates.items():
        block[name] = _json(bootstrap.estimate(partial(rate, cut=cut), per_patient, weights))
    return block


def likeliness(frame: pd.DataFrame, score: str, *, grades: int) -> Float64[np.ndarray, "exams grades"] | None:
    """How likely each grade is, by the networks' mean; ``None`` where some cut has no network that knows it."""
    above = [networks_of_task(frame, score, cut) for cut in range(grades - 1)]
    if not all(networks.shape[1] for networks in above):
        return None
    shares = [1.0, *(networks.mean(axis=1).to_numpy() for networks in above), 0.0]
    return -np.diff(np.stack(np.broadcast_arrays(*shares), axis=1).astype(np.float64), axis=1)


def networks_of_task(frame: pd.DataFrame, score: str, cut: int) -> pd.DataFrame:
    """Probability that the grade is above a cut, a column per network that says so, found by its name's parts.

    A network that tells all grades apart says it by the sum of the grades above.
    """
    columns: dict[str, object] = {}
    for column in map(str, frame.columns):
        name, _, grade = column.removeprefix("p:").partition(":")
        parts = set(name.split("/"))
        if not column.startswith("p:") or score not in parts:
            continue
        if grade and int(grade) > cut:
            columns[name] = columns.get(name, 0.0) + frame[column]
        elif f"gt{cut}" in parts:
            columns[name] = frame[column]
    return pd.DataFrame(columns, index=frame.index)


def grades_in(frame: pd.DataFrame, column: str) -> Int64[np.ndarray, " exams"]:
    """A column of grades, ``MISSING`` where none or without such a column."""
    if column not in frame:
        return np.full(len(frame), MISSING, dtype=np.int64)
    return np.asarray(frame[column].fillna(MISSING).to_numpy(dtype=np.int64))
