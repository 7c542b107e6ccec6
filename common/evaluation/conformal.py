"""Sets of grades with a promise: the reader's grade is in the set in nine exams of ten.

A set grows from the ensemble's decision, one neighbouring grade at a time, the likelier of the two first, so that
its grades always lie side by side. The **effort** of a grade is the probability that the set holds before that grade
joins it: 0 for the decision, and close to 1 for what is reached last. All grades of an effort below a threshold are
the exam's set.

The threshold comes from exams that neither trained nor selected anything (split conformal prediction): with n of
them, the ``ceil((n + 1) level)``-th smallest effort of their readers' grades. Then the set of a further exam holds
its reader's grade with probability ``level`` or more, whatever the networks are worth, **if that exam is exchangeable
with those**: from the same sites, machines and readers. Of a machine that nobody has measured nothing is promised.

Efforts are counted in 256 bins, so that sites' counts add up and no exam's effort leaves its site; the threshold is
the upper edge of a bin, on the safe side by 1/256 at most.

Source: Vovk, Gammerman and Shafer 2005, Algorithmic learning in a random world, chapter 2 (split, by group:
Mondrian); Romano, Sesia and Candes 2020, arXiv 2006.02544 (efforts as accumulated probability); Lu, Angelopoulos and
Pomerantz 2022, arXiv 2207.02238 (contiguous sets of ordinal grades); Lu, Yu, Karimireddy, Jordan and Raskar 2023,
arXiv 2305.17564 (over federated sites).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pydantic import Field, model_validator

from common.evaluation.histograms import BINS
from common.sections.section import Section

LEVEL = 0.9
"""How often a set holds the reader's grade, at least."""
ANSWERED = 2 / 3
"""Of exams, the surest, which the ensemble answers by itself where the others go to a reader."""

Counts = Annotated[tuple[Annotated[int, Field(ge=0, le=2**53)], ...], Field(min_length=BINS, max_length=BINS)]
NONE: tuple[int, ...] = (0,) * BINS


class Conformity(Section):
    """What is counted of one score, exams by bin of effort."""

    calibration: Counts = NONE
    """Efforts of the readers' grades on exams that the threshold comes from."""
    reference: Counts = NONE
    """The same on other exams, on which sets are tried."""
    grades: Counts = NONE
    """Efforts of all grades of these: how large their sets are."""
    wrong: Counts = NONE
    """Probability of the decision, of those of these exams whose decision is not the reader's grade."""
    right: Counts = NONE
    """The same of the others."""

    @model_validator(mode="after")
    def _of_the_same_exams(self) -> Conformity:
        exams = sum(self.reference)
        if sum(self.wrong) + sum(self.right) != exams or sum(self.grades) < 2 * exams:
            raise ValueError("expected efforts and decisions of the same exams")
        return self

    def __add__(self, other: Conformity) -> Conformity:
        """The counts of both sets of exams together."""
        fields = type(self).model_fields
        return Conformity(
            **{
                name: tuple((np.array(getattr(self, name)) + np.array(getattr(other, name))).tolist())
                for name in fields
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Sets, on exams that they were not made from.

    Attributes:
        exams: their number.
        coverage: share of sets that hold the reader's grade.
        low: lower end of Wilson's 95 % interval of it, which takes exams as independent of each other.
        high: upper end.
        size: mean number of grades in a set.
        single: share of sets of one grade.
        right: share of all decisions that are the reader's grade.
        surest: the same of the surest :data:`ANSWERED` of exams: what is left where a reader grades the others.
    """

    exams: int
    coverage: float
    low: float
    high: float
    size: float
    single: float
    right: float
    surest: float


def probabilities(above: Float64[np.ndarray, "exams cuts"]) -> Float64[np.ndarray, "exams grades"]:
    """Of each grade, from those of being above 0, above 1 ..; where one of these rises, the lowest so far counts."""
    falling = np.minimum.accumulate(above.clip(0, 1), axis=1)
    ends = np.ones((len(falling), 1)), np.zeros((len(falling), 1))
    return np.asarray(-np.diff(np.concatenate([ends[0], falling, ends[1]], axis=1), axis=1))


def efforts(
    chances: Float64[np.ndarray, "exams grades"], decision: Int64[np.ndarray, " exams"]
) -> Float64[np.ndarray, "exams grades"]:
    """How much probability a set that grows from the decision holds before each grade joins it; in [0, 1].

    Args:
        chances: probabilities of the grades, of :func:`probabilities`.
        decision: the ensemble's.
    """
    exams, grades = chances.shape
    every = np.arange(exams)
    padded = np.pad(chances, ((0, 0), (1, 1)), constant_values=-1.0)  # beyond the ends nothing is likelier
    low, high = decision.copy(), decision.copy()
    held = chances[every, decision].copy()
    found = np.zeros_like(chances)
    for _ in range(grades - 1):
        downwards = padded[every, low] >= padded[every, high + 2]
        low, high = low - downwards, high + ~downwards
        joins = np.where(downwards, low, high)
        found[every, joins] = held
        held += chances[every, joins]
    return found.clip(0, 1)


def sets(found: Float64[np.ndarray, "exams grades"], threshold: float) -> Bool[np.ndarray, "exams grades"]:
    """Which grades are in each exam's set.

    Args:
        found: of :func:`efforts`.
        threshold: of :func:`threshold`; from 1 on, all are.
    """
    return (found < threshold) | (threshold >= 1)


def conformity(
    found: Float64[np.ndarray, "exams grades"],
    chances: Float64[np.ndarray, "exams grades"],
    *,
    reference: Int64[np.ndarray, " exams"],
    decision: Int64[np.ndarray, " exams"],
    calibrates: Bool[np.ndarray, " exams"],
) -> Conformity:
    """Count exams.

    Args:
        found: of :func:`efforts`.
        chances: of :func:`probabilities`.
        reference: the readers' grades.
        decision: the ensemble's.
        calibrates: which exams the threshold comes from; sets are tried on the others.
    """
    every, tried = np.arange(len(found)), ~calibrates
    of_reference, sure = found[every, reference], chances[every, decision]
    right = decision == reference
    return Conformity(
        calibration=_counts(of_reference[calibrates]),
        reference=_counts(of_reference[tried]),
        grades=_counts(found[tried].reshape(-1)),
        wrong=_counts(sure[tried & ~right]),
        right=_counts(sure[tried & right]),
    )


def threshold(told: Conformity, level: float = LEVEL) -> float:
    """The smallest bin edge below which enough of the calibration exams lie; 1 where they are too few to tell."""
    counts = np.array(told.calibration)
    needed = math.ceil((int(counts.sum()) + 1) * level - 1e-9)
    reached = np.flatnonzero(np.cumsum(counts) >= needed)
    return float(reached[0] + 1) / BINS if len(reached) else 1.0


def tried(told: Conformity, at: float) -> Tried | None:
    """What sets at a threshold, a bin edge, are worth; ``None``: no exam is there to try them on."""
    exams, answered = sum(told.reference), surest(told)
    if answered is None:
        return None
    below = round(at * BINS)
    covered = sum(told.reference[:below])
    from scipy.stats import binomtest  # noqa: PLC0415  takes long

    interval = binomtest(covered, exams).proportion_ci(method="wilson")
    return Tried(
        exams=exams,
        coverage=covered / exams,
        low=float(interval.low),
        high=float(interval.high),
        size=sum(told.grades[:below]) / exams,
        single=(sum(told.wrong[below:]) + sum(told.right[below:])) / exams if at < 1 else 0.0,
        right=sum(told.right) / exams,
        surest=answered[1],
    )


def surest(told: Conformity, share: float = ANSWERED) -> tuple[float, float] | None:
    """How often the ensemble is right where it answers the exams that it is surest of.

    Args:
        told: the counts.
        share: of exams that it answers, at least; whole bins are taken.

    Returns:
        The share of exams that it answers, and of these the share that is right; ``None``: there are no exams.
    """
    wrong, right = np.array(told.wrong)[::-1].cumsum(), np.array(told.right)[::-1].cumsum()
    exams = int(wrong[-1] + right[-1])
    if not exams:
        return None
    last = int(np.flatnonzero(wrong + right >= share * exams - 1e-9)[0])
    answered = int(wrong[last] + right[last])
    return answered / exams, int(right[last]) / answered


def _counts(values: Float64[np.ndarray, " exams"]) -> tuple[int, ...]:
    bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    return tuple(np.bincount(bins, minlength=BINS).tolist())
