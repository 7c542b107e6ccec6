"""Single exams behind a table, where plan and policy permit that they are told: grades and scores, and no name.

An exam's place in the table is its number. The places follow a keyed hash that is another one in each campaign, score
and machine, so that a number tells nothing of an exam, nor which exams of two tables are one, nor which are of one
patient. What counts as an exam's score is what histograms have, one of 256 steps.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pydantic import Field, model_validator

from common.evaluation.histograms import BINS
from common.sections.section import Section

Grades = tuple[Annotated[int, Field(ge=0, le=1000)], ...]
Steps = tuple[Annotated[int, Field(ge=0, lt=BINS)], ...]


class Cases(Section):
    """The exams of one table, in an order that tells nothing."""

    reference: Grades
    """The readers' grade."""
    decision: Grades
    """The ensemble's."""
    contested: tuple[bool, ...]
    """Whether the networks were divided."""
    above: tuple[Steps, ...] = ()
    """Of each cut, above grade 0, above 1 ..: the probability that the grade is above it, in steps of 1/256 from
    below; empty where the site keeps score histograms, or the score is a combined one."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Cases:
        columns = (self.decision, self.contested, *self.above)
        if any(len(column) != len(self.reference) for column in columns):
            raise ValueError("expected as many of everything as there are exams")
        return self

    def confusion(self, grades: int) -> Int64[np.ndarray, "grades grades"]:
        """Exams, reference x decision."""
        found = np.zeros((grades, grades), dtype=np.int64)
        np.add.at(found, (np.array(self.reference), np.array(self.decision)), 1)
        return found


def told(
    order: Int64[np.ndarray, " exams"],
    *,
    reference: Int64[np.ndarray, " exams"],
    decision: Int64[np.ndarray, " exams"],
    contested: Bool[np.ndarray, " exams"],
    above: Float64[np.ndarray, "exams cuts"] | None,
) -> Cases:
    """Single exams.

    Args:
        order: which exam comes first, which next ..
        reference: the readers' grades.
        decision: the ensemble's.
        contested: whether the networks were divided.
        above: probability that the grade is above 0, above 1 ..; ``None``: not told.
    """
    steps = () if above is None else np.minimum((above.clip(0, 1) * BINS).astype(np.int64), BINS - 1).T
    return Cases(
        reference=tuple(reference[order].tolist()),
        decision=tuple(decision[order].tolist()),
        contested=tuple(contested[order].tolist()),
        above=tuple(tuple(cut[order].tolist()) for cut in steps),
    )
