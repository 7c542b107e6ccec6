"""What a site tells of a number, such as a total score, on its held-out patients: sums over exams, of one machine.

With y an exam's number by its readers and x the ensemble's, the sums of 1, y, x, y^2, x^2, xy and |x - y| give the
correlation and the errors of any union of tables. They are fewer equations than patients have numbers, as long as at
least four stand behind them; ``policy.minimum_cohort`` patients do.

Sums of products within patients, from which tables of grades have their intervals, would be sums of fourth powers
here, and these would tell of single patients. So the intervals count patients and no exams (as if all exams of a
patient were one), and take errors as normally distributed: they are rather wide than narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_validator

from common.evaluation.bootstrap import Estimate
from common.sections.section import Positive, Section

NORMAL_QUANTILE = 1.959963984540054
SLACK = 1e-9
"""Of rounding, relative."""
Sum = Annotated[float, Field(ge=-1e300, le=1e300)]


class NumberSums(Section):
    """One number on the exams of one machine, in the number's own unit."""

    number: Annotated[str, Field(min_length=1, max_length=100)]
    device: Annotated[str, Field(max_length=200)]
    patients: Positive
    exams: Positive
    reference: Sum
    """The readers' numbers."""
    answer: Sum
    """The ensemble's."""
    reference_squared: Sum
    answer_squared: Sum
    product: Sum
    """Of both."""
    absolute_error: Sum

    @model_validator(mode="after")
    def _can_be(self) -> NumberSums:
        spread = [
            self.exams * self.reference_squared - self.reference**2,
            self.exams * self.answer_squared - self.answer**2,
            self.reference_squared * self.answer_squared - self.product**2,
            self.squared_error,
            self.absolute_error,
        ]
        largest = self.exams * max(self.reference_squared, self.answer_squared, 1.0)
        bounds = [largest, largest, largest**2, largest, largest]
        if any(one < -SLACK * bound for one, bound in zip(spread, bounds, strict=True)):
            raise ValueError("expected sums of numbers and of their squares and products")
        if self.patients > self.exams:
            raise ValueError("expected sums of as many patients as there are exams, at most")
        return self

    @property
    def squared_error(self) -> float:
        """Sum of the squared errors."""
        return self.reference_squared + self.answer_squared - 2 * self.product


def sums(
    reference: Float64[np.ndarray, " exams"],
    answer: Float64[np.ndarray, " exams"],
    *,
    number: str,
    device: str,
    patients: int,
) -> NumberSums:
    """Add exams up.

    Args:
        reference: the readers' numbers, at least one.
        answer: the ensemble's.
        number: its name.
        device: the machine.
        patients: how many there are.
    """
    return NumberSums(
        number=number,
        device=device,
        patients=patients,
        exams=len(reference),
        reference=float(reference.sum()),
        answer=float(answer.sum()),
        reference_squared=float((reference**2).sum()),
        answer_squared=float((answer**2).sum()),
        product=float((reference * answer).sum()),
        absolute_error=float(np.abs(answer - reference).sum()),
    )


def estimates(tables: Sequence[NumberSums]) -> Mapping[str, Estimate]:
    """``pearson``, ``rmse``, ``mae`` and ``bias`` (answer minus reference) of some tables of one number together.

    Args:
        tables: one or more, of different patients.

    Returns:
        Each with a 95 % interval over patients: Pearson's by Fisher's z, that of the mean error by its standard
        error, RMSE's by the spread of the root of a mean of squares of normal errors; nan: it cannot be computed (the
        mean absolute error has none).
    """
    exams, patients = sum(one.exams for one in tables), sum(one.patients for one in tables)
    y, x, yy, xx, xy, absolute = (
        math.fsum(getattr(one, name) for one in tables) / exams
        for name in (
            "reference",
            "answer",
            "reference_squared",
            "answer_squared",
            "product",
            "absolute_error",
        )
    )
    bias, squared = x - y, max(0.0, yy + xx - 2 * xy)
    rmse, spread = math.sqrt(squared), math.exp(NORMAL_QUANTILE / math.sqrt(2 * patients))
    half = NORMAL_QUANTILE * math.sqrt(max(0.0, squared - bias**2) / patients)
    return {
        "pearson": _pearson(xy - x * y, xx - x * x, yy - y * y, patients),
        "rmse": Estimate(value=rmse, low=rmse / spread, high=rmse * spread),
        "mae": Estimate(value=absolute, low=math.nan, high=math.nan),
        "bias": Estimate(value=bias, low=bias - half, high=bias + half),
    }


def by_number(tables: Sequence[NumberSums]) -> Mapping[str, list[NumberSums]]:
    """Tables by number, by their names."""
    found: dict[str, list[NumberSums]] = {}
    for one in sorted(tables, key=lambda one: one.number):
        found.setdefault(one.number, []).append(one)
    return found


def _pearson(together: float, answer: float, reference: float, patients: int) -> Estimate:
    if min(answer, reference) <= SLACK * max(answer, reference, SLACK):
        return Estimate(value=math.nan, low=math.nan, high=math.nan)
    value = max(-1.0, min(1.0, together / math.sqrt(answer * reference)))
    if patients <= 3 or abs(value) == 1:
        return Estimate(value=value, low=math.nan, high=math.nan)
    z, half = math.atanh(value), NORMAL_QUANTILE / math.sqrt(patients - 3)
    return Estimate(value=value, low=math.tanh(z - half), high=math.tanh(z + half))
