"""What a study finds beside each reader's own figures: the ensemble, agreement, other readers, habits.

Every figure is one :class:`Finding`, in JSON and in ``reader_findings.csv`` alike; ``docs/reader-study.md`` says what
each part is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from jaxtyping import Int64, Integer

from common.errors import DataError
from common.evaluation import paired, readers, roc
from common.evaluation.agreement import accuracy, kappa
from common.evaluation.bootstrap import Estimate, patient_confusions
from common.evaluation.multireader import obuchowski_rockette, reader_severity
from common.evaluation.multireader.obuchowski_rockette import Analysis, Inference
from common.evaluation.paired import Comparison, Metric
from common.evaluation.readers import CONDITIONS, WITH, WITHOUT
from common.exam import MISSING
from common.scoring import eoss
from simulation.readers.readings import ENSEMBLE

AVERAGE, DIFFERENCE = "average", "difference"
ALONE, AGAINST, BETWEEN, WITHIN = "ensemble", "against_ensemble", "between_readers", "within_readers"
CROSSED, COMPONENTS, HABITS, TIME = "obuchowski_rockette", "variance_components", "severity", "time"
RANDOM, FIXED = "readers_random", "readers_fixed"
_LINEAR: Metric = partial(kappa, weights="linear")
_AGAINST: Mapping[str, Metric] = {"accuracy": accuracy, "kappa_linear": _LINEAR}
"""In which readers are held against the ensemble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One figure with its interval, nan for what there is none of.

    Attributes:
        part: of the study, see the constants of this module.
        reader: whose; ``AVERAGE`` of all; ``RANDOM`` or ``FIXED``, as whose sample they are taken.
        condition: one of reading, ``DIFFERENCE`` with minus without, or empty where it plays no part.
        other: against whom, or the name of a variance component.
        exams: that it is from.
        low, high: of the 95 % interval; of a median the quartiles.
        statistic, df: of the test; df also of an interval.
    """

    part: str
    metric: str
    reader: str
    condition: str = ""
    other: str = ""
    exams: int
    value: float
    low: float = float("nan")
    high: float = float("nan")
    statistic: float = float("nan")
    df: float = float("nan")
    p: float = float("nan")
    p_holm: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Readings of one measurement, one of each reader, exam and condition.

    Attributes:
        name: of the measurement.
        table: as ``Readings.table``, only the rows that count.
        readers: their names, to which ``reader`` points.
        reader: of each row.
        patients: how many there are.
        patient: of each row, an index.
    """

    name: str
    table: Mapping[str, np.ndarray]
    conditions: tuple[str, ...]
    readers: tuple[str, ...]
    reader: Integer[np.ndarray, " readings"]
    patients: int
    patient: Integer[np.ndarray, " readings"]

    def grid(
        self, condition: str
    ) -> tuple[Int64[np.ndarray, "exams readers"], Integer[np.ndarray, " exams"]]:
        """Grades in one condition, ``MISSING`` where there are none, of all exams; and each exam's patient."""
        exams, first, exam = np.unique(
            self.table["exam_id"].astype(str), return_index=True, return_inverse=True
        )
        use = self.table["condition"] == condition
        grades = np.full((len(exams), len(self.readers)), MISSING)
        grades[exam[use], self.reader[use]] = self.table[self.name][use]
        return grades, self.patient[first]


def ensemble(scored: Scored, weights: Int64[np.ndarray, "replicates patients"]) -> Iterator[Finding]:
    """The ensemble's own figures, on the exams that readers graded."""
    answer = scored.table[f"{ENSEMBLE}_{scored.name}"]
    given = np.flatnonzero(answer != MISSING)
    _, first = np.unique(scored.table["exam_id"].astype(str)[given], return_index=True)
    if not len(first):
        return
    once = given[first]
    own = patient_confusions(
        scored.table[f"truth_{scored.name}"][once],
        answer[once],
        scored.patient[once],
        grades=eoss.GRADES,
        patients=scored.patients,
    )
    for name, metric in readers.metrics(eoss.GRADES).items():
        found = paired.estimate(metric, own, weights)
        yield _estimated(found, part=ALONE, metric=name, reader=ENSEMBLE, exams=len(first))


def against(
    scored: Scored, weights: Int64[np.ndarray, "replicates patients"], generator: np.random.Generator
) -> Iterator[Finding]:
    """Each reader minus the ensemble, on the exams that he graded, in each condition."""
    answer, truth = (scored.table[f"{source}_{scored.name}"] for source in (ENSEMBLE, "truth"))
    for condition in scored.conditions:
        use = (answer != MISSING) & (scored.table["condition"] == condition)
        graded, answered = (
            readers.reader_confusions(
                truth[use],
                grades[use],
                reader=scored.reader[use],
                patient=scored.patient[use],
                grades=eoss.GRADES,
                readers=len(scored.readers),
                patients=scored.patients,
            )
            for grades in (scored.table[scored.name], answer)
        )
        there = np.flatnonzero(answered.any(axis=(1, 2, 3))).tolist()
        for name, metric in _AGAINST.items() if there else ():
            compare = partial(paired.compare, metric, weights=weights, generator=generator)
            mean = compare(graded[there], answered[there])
            yield _against(mean, name, condition, AVERAGE, int(answered.sum()))
            each = [compare(graded[reader], answered[reader]) for reader in there]
            corrected = paired.holm([one.p for one in each])
            for reader, one, p_holm in zip(there, each, corrected, strict=True):
                exams = int(answered[reader].sum())
                yield _against(one, name, condition, scored.readers[reader], exams, float(p_holm))


def _against(
    found: Comparison, metric: str, condition: str, reader: str, exams: int, p_holm: float = float("nan")
) -> Finding:
    return Finding(
        part=AGAINST, metric=metric, reader=reader, condition=condition, other=ENSEMBLE, exams=exams,
        value=found.value, low=found.low, high=found.high, p=found.p, p_holm=p_holm,
    )  # fmt: skip


def _estimated(
    found: Estimate, *, part: str, metric: str, reader: str, exams: int, condition: str = "", other: str = ""
) -> Finding:
    return Finding(
        part=part, metric=metric, reader=reader, condition=condition, other=other, exams=exams,
        value=found.value, low=found.low, high=found.high,
    )  # fmt: skip


def between(scored: Scored, weights: Int64[np.ndarray, "replicates patients"]) -> Iterator[Finding]:
    """Linear kappa of each two readers on the exams that both graded, and its mean over the pairs."""
    counts = {}
    for condition in scored.conditions:
        grades, patient = scored.grid(condition)
        pairs, counts[condition] = readers.pair_confusions(
            grades, patient, levels=eoss.GRADES, patients=scored.patients
        )
        if not pairs:
            return
        state = partial(_estimated, part=BETWEEN, metric="kappa_linear", condition=condition)
        exams = counts[condition].sum(axis=(1, 2, 3)).tolist()
        yield state(paired.estimate(_LINEAR, counts[condition], weights), reader=AVERAGE, exams=sum(exams))
        for (first, second), pair, count in zip(pairs, counts[condition], exams, strict=True):
            names = {"reader": scored.readers[first], "other": scored.readers[second]}
            yield state(paired.estimate(_LINEAR, pair, weights), **names, exams=count)
    if set(CONDITIONS) <= set(counts):
        gain = paired.difference(_LINEAR, counts[WITH], counts[WITHOUT], weights=weights)
        yield _estimated(
            gain, part=BETWEEN, metric="kappa_linear", condition=DIFFERENCE, reader=AVERAGE, exams=sum(exams)
        )


def within(
    sessions: Sequence[Scored], weights: Int64[np.ndarray, "replicates patients"]
) -> Iterator[Finding]:
    """Linear kappa of each reader with himself, over exams that he graded in two sessions in one condition.

    Args:
        sessions: the readings of the first session in which he graded an exam, and of the second.
        weights: bootstrap draws of the patients.
    """
    first = sessions[0]
    for condition in first.conditions:
        (once, patient), (again, _) = (scored.grid(condition) for scored in sessions)
        found = []
        for reader, name in enumerate(first.readers):
            grades = np.column_stack([once[:, reader], again[:, reader]])
            _, counts = readers.pair_confusions(grades, patient, levels=eoss.GRADES, patients=first.patients)
            found += [(name, pair) for pair in counts]
        state = partial(_estimated, part=WITHIN, metric="kappa_linear", condition=condition)
        for name, pair in found:
            yield state(paired.estimate(_LINEAR, pair, weights), reader=name, exams=int(pair.sum()))
        if found:
            every = np.stack([pair for _, pair in found])
            mean = paired.estimate(_LINEAR, every, weights)
            yield state(mean, reader=AVERAGE, exams=int(every.sum()))


def figures_of_merit() -> dict[str, Metric]:
    """What is analysed over readers and patients: accuracy, kappa, Youden's index and area at every cut."""
    every = readers.metrics(eoss.GRADES)
    names = [name for name in every if name.startswith(("accuracy", "kappa", "youden"))]
    cuts = [name.removeprefix("youden_") for name in names if name.startswith("youden")]
    areas = {f"auc_{name}": partial(roc.grades_auc, cut=cut) for cut, name in enumerate(cuts)}
    return {name: every[name] for name in names} | areas


def crossed(scored: Scored) -> Iterator[Finding]:
    """Obuchowski and Rockette's analysis of the exams that all readers graded.

    Raises:
        DataError: if there are not two readers, or not two patients whose exams all of them graded.
    """
    truth = dict(zip(scored.table["exam_id"].astype(str), scored.table[f"truth_{scored.name}"], strict=True))
    true = np.array([truth[exam] for exam in sorted(truth)])  # as in the grid
    grids = {condition: scored.grid(condition) for condition in scored.conditions}
    whole = np.all([(grades != MISSING).all(axis=1) for grades, _ in grids.values()], axis=0)
    names, patient = np.unique(next(iter(grids.values()))[1][whole], return_inverse=True)
    if len(scored.readers) < 2 or len(names) < 2:
        raise DataError(
            f"Expected two readers or more, and exams of two patients or more that all of them graded, got "
            f"{len(scored.readers)} and {whole.sum()} exams of {len(names)}."
        )
    each = [
        patient_confusions(true[whole], column, patient, grades=eoss.GRADES, patients=len(names))
        for grades, _ in grids.values()
        for column in grades[whole].T
    ]
    counts = np.reshape(each, (len(grids), len(scored.readers), len(names), eoss.GRADES, eoss.GRADES))
    for name, metric in figures_of_merit().items():
        yield from _analysed(
            name, obuchowski_rockette.analyse(metric, counts), scored.conditions, int(whole.sum())
        )


def _analysed(name: str, found: Analysis, conditions: tuple[str, ...], exams: int) -> Iterator[Finding]:
    def state(condition: str, reader: str, one: Inference) -> Finding:
        return Finding(
            part=CROSSED, metric=name, reader=reader, condition=condition, exams=exams, value=one.value,
            low=one.low, high=one.high, statistic=one.statistic, df=one.df, p=one.p,
        )  # fmt: skip

    for kind, means, difference in (
        (RANDOM, found.means_random, found.random),
        (FIXED, found.means_fixed, found.fixed),
    ):
        yield from (state(c, kind, mean) for c, mean in zip(conditions, means, strict=True))
        if difference is not None:
            yield state(DIFFERENCE, kind, difference)
    parts = found.components
    for component in ("reader", "interaction", "error", "cov1", "cov2", "cov3"):
        value: float = getattr(parts, component)
        if not np.isnan(value):
            yield Finding(
                part=COMPONENTS, metric=name, reader=AVERAGE, other=component, exams=exams, value=value
            )


def severity(scored: Scored) -> Iterator[Finding]:
    """Each reader's habit and noise in each condition, from all readings, whether there is a reference or not.

    Raises:
        DataError: if there are fewer than three readers of exams that others graded too.
    """
    for condition in scored.conditions:
        grades, patient = scored.grid(condition)
        shared = grades[(grades != MISSING).sum(axis=1) > 1]
        there = np.flatnonzero((shared != MISSING).any(axis=0))
        found = reader_severity.habits(grades[:, there], patient, levels=eoss.GRADES)
        for (reader, habit), metric in product(zip(there, found, strict=True), ("habit", "noise")):
            value: Estimate = getattr(habit, metric)
            yield _estimated(
                value, part=HABITS, metric=metric, condition=condition, reader=scored.readers[reader],
                exams=habit.exams,
            )  # fmt: skip
