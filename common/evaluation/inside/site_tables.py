"""What a site tells of an ensemble on its held-out patients: counts by score and machine.

Nothing of an exam is among them, unless plan and policy permit it (:mod:`common.evaluation.inside.cases`).

Sites' tables add up: the sum of the confusion matrices is the matrix of all their exams. An interval that speaks of
patients needs one thing more, how alike the exams of one patient are. With c_p the counts of patient p, cells of the
confusion matrix in a row, C their sum and P the number of patients, a bootstrap over patients moves C with covariance

    sum over p of c_p c_p^T  -  C C^T / P

so each table has the sum of these products beside its counts, and the interval of any metric of C follows by the
delta method, with no patient's counts out of the site. Where a site trained networks alone, the counts of both
systems stand in one row, so that the interval of what it gains is paired by patient.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 (patients as the units that are drawn)
and 21 (nonparametric delta method).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from common import signed_json
from common.evaluation import bootstrap, conformal
from common.evaluation.agreement import Values
from common.evaluation.bootstrap import Estimate
from common.evaluation.conformal import Conformity
from common.evaluation.histograms import BINS, ScoreHistograms
from common.evaluation.inside import cases, sent
from common.evaluation.inside.cases import Cases
from common.evaluation.inside.number_sums import NumberSums
from common.networks.spec import COMBINED
from common.sections.section import GrowingSection, Positive, Section

NORMAL_QUANTILE = 1.959963984540054
MAXIMUM_TEXT = 4_000_000
"""Letters of a site's tables."""
STEP = 1e-6
"""Of all exams, by how much a cell is moved to see how a metric moves."""

Natural = Annotated[int, Field(ge=0, le=2**53)]
Row = tuple[Natural, ...]


def _squares(counts: np.ndarray, products: np.ndarray) -> bool:
    """Whether these are the counts of one or two confusion matrices, and their products."""
    cells = counts.size
    return (
        counts.shape[-1] >= 2
        and counts.shape[-2:] == counts.shape[-1:] * 2
        and products.shape == (cells, cells)
    )


class Beside(Section):
    """The same exams, graded by networks that the site trained alone, and by as many of the ensemble's."""

    models: Positive
    """Scoring models on either side."""
    alone: tuple[Row, ...]
    """Exams, reference x decision of the site's own training."""
    together: tuple[Row, ...]
    """Exams, reference x decision of the ensemble's first models."""
    products: tuple[Row, ...]
    """Sum over patients of the products of their counts, cells of ``alone`` row by row, then of ``together``."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Beside:
        counts, products = np.array([self.alone, self.together]), np.array(self.products)
        if not _squares(counts, products) or not (products == products.T).all():
            raise ValueError("expected two squares of counts, and their products")
        if (counts[0].sum(axis=-1) != counts[1].sum(axis=-1)).any():
            raise ValueError("expected the same exams on both sides")
        return self


class Table(GrowingSection):
    """One score on the exams of one machine."""

    later: ClassVar[tuple[str, ...]] = ("cases",)

    score: Annotated[str, Field(min_length=1, max_length=100)]
    """A measurement, or ``combined``."""
    device: Annotated[str, Field(max_length=200)]
    """The machine, as the site's manifest calls it."""
    patients: Positive
    exams: Positive
    confusion: tuple[Row, ...]
    """Exams, reference x decision."""
    products: tuple[Row, ...]
    """Sum over patients of the products of their counts, cell x cell, cells of ``confusion`` row by row."""
    contested: Natural
    """Exams on which the networks were divided."""
    histograms: tuple[tuple[Row, Row], ...] = ()
    """Of each cut, above grade 0, above 1 ..: the probabilities that the grade is above it, as counts in 256 bins, of
    exams that are not and that are. Empty where the site keeps score histograms, or the score is a combined one."""
    conformity: Conformity | None = None
    """How sure the ensemble was of the readers' grades, for sets of grades; ``None`` without histograms."""
    beside: Beside | None = None
    """What the site's own training says of the exams; ``None`` where it trained nothing alone."""
    cases: Cases | None = None
    """The exams one by one; ``None`` where plan or policy permit none."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Table:
        counts, products = np.array(self.confusion), np.array(self.products)
        if not _squares(counts, products) or counts.sum() != self.exams or self.contested > self.exams:
            raise ValueError("expected a square of counts that add up to the exams, and their products")
        if not (products == products.T).all() or products.sum() < self.exams or self.patients > self.exams:
            raise ValueError("expected products of counts of as many patients as the table has")
        if any(len(row) != BINS for cut in self.histograms for row in cut):
            raise ValueError(f"expected histograms of {BINS} bins")
        told = self.conformity
        if told is not None and sum(told.calibration) + sum(told.reference) != self.exams:
            raise ValueError("expected how sure the ensemble was of as many exams as the table has")
        if self.beside is not None and (np.sum(self.beside.alone, axis=1) != counts.sum(axis=1)).any():
            raise ValueError("expected what the site's own training says of the table's exams")
        if self.cases is not None:
            self._cases_fit(self.cases, counts)
        return self

    def _cases_fit(self, cases: Cases, counts: Int64[np.ndarray, "grades grades"]) -> None:
        known = max((*cases.reference, *cases.decision), default=0) < len(counts)
        if (
            not known
            or (cases.confusion(len(counts)) != counts).any()
            or sum(cases.contested) != self.contested
        ):
            raise ValueError("expected single exams that add up to the table")
        if len(cases.above) not in (0, len(self.histograms)):
            raise ValueError("expected a probability of each cut, or none")


class SiteTables(GrowingSection):
    """All that leaves a site of one evaluation."""

    later: ClassVar[tuple[str, ...]] = ("numbers",)

    format: Literal[1] = 1
    site: Annotated[str, Field(min_length=1, max_length=100)]
    minimum_cohort: Positive
    """Patients that stand behind each table, at least: the site's own rule."""
    tables: tuple[Table, ...]
    suppressed: Natural
    """Tables that are kept back, since too few patients stand behind them."""
    numbers: tuple[NumberSums, ...] = ()
    """Of numbers; none where the policy permits none."""

    @model_validator(mode="after")
    def _large_enough(self) -> SiteTables:
        behind = [*(one.patients for one in self.tables), *(one.patients for one in self.numbers)]
        if any(patients < self.minimum_cohort for patients in behind):
            raise ValueError("expected tables of as many patients as the site's own rule asks for")
        if len({(table.score, table.device) for table in self.tables}) < len(self.tables):
            raise ValueError("expected one table per score and machine")
        if len({(one.number, one.device) for one in self.numbers}) < len(self.numbers):
            raise ValueError("expected sums once per number and machine")
        return self

    def dump(self) -> str:
        """Canonical JSON, as it leaves the site."""
        return signed_json.canonical(self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What a site's own training says, and as many of the ensemble's models.

    Attributes:
        models: scoring models on either side.
        alone: decisions of what the site trained alone, ``(exams,)``.
        together: decisions of the ensemble's first models, ``(exams,)``.
    """

    models: int
    alone: Int64[np.ndarray, " exams"]
    together: Int64[np.ndarray, " exams"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A metric of two systems on the same patients.

    Attributes:
        alone: of what the sites trained alone, each on its own exams.
        together: of the ensemble.
        gain: ``together`` minus ``alone``, paired by patient.
    """

    alone: Estimate
    together: Estimate
    gain: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Some exams of one machine, graded by people and by an ensemble.

    Attributes:
        reference: the site's consensus, ``(exams,)``.
        decision: the ensemble's, ``(exams,)``.
        patient: anything that tells patients apart, ``(exams,)``.
        contested: whether the networks were divided, ``(exams,)``.
        calibrates: which exams the threshold of sets of grades comes from, ``(exams,)``; the others try it.
        above: probability that the grade is above 0, above 1 .., ``(exams, cuts)``; ``None``: not told.
        paired: what the site trained alone says beside the ensemble; ``None``: there is nothing.
        order: in which single exams are told, ``(exams,)``; ``None``: they are not.
    """

    reference: Int64[np.ndarray, " exams"]
    decision: Int64[np.ndarray, " exams"]
    patient: Int64[np.ndarray, " exams"]
    contested: Bool[np.ndarray, " exams"]
    calibrates: Bool[np.ndarray, " exams"]
    above: Float64[np.ndarray, "exams cuts"] | None = None
    paired: Paired | None = None
    order: Int64[np.ndarray, " exams"] | None = None


def table(judged: Judged, *, score: str, device: str, grades: int) -> Table:
    """Count exams.

    Args:
        judged: the exams, at least one, each with a reference and a decision.
        score: what was graded.
        device: the machine.
        grades: the number of grades.
    """
    patients, patient = np.unique(judged.patient, return_inverse=True)

    def counts(
        *decisions: Int64[np.ndarray, " exams"],
    ) -> Int64[np.ndarray, "patients systems grades grades"]:
        each = [
            bootstrap.patient_confusions(
                judged.reference, one, patient, grades=grades, patients=len(patients)
            )
            for one in decisions
        ]
        return np.stack(each, axis=1)

    by_patient = counts(judged.decision)
    beside = None
    if judged.paired is not None:
        both = counts(judged.paired.alone, judged.paired.together)
        alone, together = both.sum(axis=0)
        beside = Beside(
            models=judged.paired.models,
            alone=_rows(alone),
            together=_rows(together),
            products=_products(both),
        )
    return Table(
        score=score,
        device=device,
        patients=len(patients),
        exams=len(judged.reference),
        confusion=_rows(by_patient.sum(axis=(0, 1))),
        products=_products(by_patient),
        contested=int(judged.contested.sum()),
        histograms=_histograms(judged),
        conformity=_conformity(judged),
        beside=beside,
        cases=_cases(judged),
    )


def parse(text: str) -> SiteTables:
    """Read what a site sent.

    Raises:
        UpdateError: if it cannot be what a site of this version sends.
    """
    return sent.parse(SiteTables, text, longest=MAXIMUM_TEXT, what="a site's tables of an ensemble")


def confusion(tables: Iterable[Table]) -> Int64[np.ndarray, "grades grades"]:
    """The confusion matrix of some tables of one score together."""
    return np.asarray(sum(np.array(one.confusion, dtype=np.int64) for one in tables))


def estimate(metric: Callable[[ArrayLike], Values], tables: Sequence[Table]) -> Estimate:
    """A metric of some tables of one score together, with its 95 % interval over patients.

    Args:
        metric: a function of :mod:`common.evaluation.agreement`, from ``(..., grades, grades)`` to ``(...)``.
        tables: one or more, of different patients.

    Returns:
        The metric; nan, as are the interval's ends, where it cannot be computed.
    """
    return _delta(
        metric,
        confusion(tables),
        products=[one.products for one in tables],
        patients=sum(one.patients for one in tables),
    )


def gain(metric: Callable[[ArrayLike], Values], tables: Iterable[Table]) -> Gain | None:
    """A metric of what the sites trained alone and of the ensemble, on some tables of one score together.

    Args:
        metric: as of :func:`estimate`.
        tables: those without such networks are left out; ``None``: all are.
    """
    told = [(one.patients, one.beside) for one in tables if one.beside is not None]
    if not told:
        return None
    counts = np.sum([(one.alone, one.together) for _, one in told], axis=0)
    of = partial(
        _delta, counts=counts, products=[one.products for _, one in told], patients=sum(p for p, _ in told)
    )
    return Gain(
        alone=of(lambda both: metric(both[..., 0, :, :])),
        together=of(lambda both: metric(both[..., 1, :, :])),
        gain=of(lambda both: np.subtract(metric(both[..., 1, :, :]), metric(both[..., 0, :, :]))),
    )


def mean_gain(gains: Sequence[Gain]) -> Gain:
    """The mean over sites that have a gain, each alike; its interval speaks of other patients, not of other sites."""
    told = [one for one in gains if not math.isnan(one.gain.value)]

    def mean(parts: Sequence[Estimate]) -> Estimate:
        value = sum(one.value for one in parts) / len(parts) if parts else math.nan
        half = math.hypot(*(one.high - one.value for one in parts)) / max(len(parts), 1)
        return Estimate(value=value, low=value - half, high=value + half)

    return Gain(
        alone=mean([one.alone for one in told]),
        together=mean([one.together for one in told]),
        gain=mean([one.gain for one in told]),
    )


def histograms(tables: Sequence[Table]) -> tuple[ScoreHistograms, ...]:
    """Of each cut, the scores of some tables of one score together; empty where a site keeps them."""
    if not all(one.histograms for one in tables):
        return ()
    cuts = zip(*(one.histograms for one in tables), strict=True)
    return tuple(
        ScoreHistograms(counts=np.sum([np.array(one, dtype=np.int64) for one in cut], axis=0)) for cut in cuts
    )


def conformity(tables: Iterable[Table]) -> Conformity | None:
    """How sure the ensemble was, of some tables of one score together, those that tell it; ``None`` if none does."""
    told = [one.conformity for one in tables if one.conformity is not None]
    return sum(told[1:], told[0]) if told else None


def by_score(tables: Iterable[Table]) -> Mapping[str, list[Table]]:
    """Tables by score, by their names, a combined one last."""
    found: dict[str, list[Table]] = {}
    for one in sorted(tables, key=lambda one: (one.score == COMBINED, one.score)):
        found.setdefault(one.score, []).append(one)
    return found


def _delta(
    metric: Callable[[NDArray[np.float64]], Values],
    counts: Int64[np.ndarray, "*shape"],
    *,
    products: Sequence[Sequence[Row]],
    patients: int,
) -> Estimate:
    """A function of counts and its 95 % interval by the delta method; nan where it cannot be computed."""
    counts = counts.astype(np.float64)
    value = float(metric(counts))
    if math.isnan(value):
        return Estimate(value=value, low=value, high=value)
    cells, step = counts.size, STEP * counts.sum()
    moved = counts + step * np.eye(cells).reshape(cells, *counts.shape)
    slope = (np.asarray(metric(moved), dtype=np.float64) - value) / step
    total = counts.reshape(-1)
    covariance = np.sum([np.array(one, dtype=np.float64) for one in products], axis=0)
    covariance -= np.outer(total, total) / patients
    half = NORMAL_QUANTILE * math.sqrt(max(0.0, float(slope @ covariance @ slope)))
    return Estimate(value=value, low=value - half, high=value + half)


def _histograms(judged: Judged) -> tuple[tuple[Row, Row], ...]:
    if judged.above is None:
        return ()
    found = []
    for cut, scores in enumerate(judged.above.T):
        below, over = ScoreHistograms.from_scores(scores.clip(0, 1), judged.reference > cut).counts.tolist()
        found.append((tuple(below), tuple(over)))
    return tuple(found)


def _conformity(judged: Judged) -> Conformity | None:
    if judged.above is None:
        return None
    chances = conformal.probabilities(judged.above)
    return conformal.conformity(
        conformal.efforts(chances, judged.decision),
        chances,
        reference=judged.reference,
        decision=judged.decision,
        calibrates=judged.calibrates,
    )


def _cases(judged: Judged) -> Cases | None:
    if judged.order is None:
        return None
    return cases.told(
        judged.order,
        reference=judged.reference,
        decision=judged.decision,
        contested=judged.contested,
        above=judged.above,
    )


def _products(counts: Int64[np.ndarray, "patients systems grades grades"]) -> tuple[Row, ...]:
    flat = counts.reshape(len(counts), -1)
    return _rows(flat.T @ flat)


def _rows(counts: Int64[np.ndarray, "rows columns"]) -> tuple[Row, ...]:
    return tuple(tuple(row) for row in counts.tolist())
