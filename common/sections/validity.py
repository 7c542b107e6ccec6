"""Which combinations of grades can be: a rule by name, or a table of what is allowed and what is forbidden.

RATING's paper offers MULTITUDE for any system of related parts and names TNM staging (Zhou et al. 2022, Patterns,
doi 10.1016/j.patter.2022.100592, discussion): the table says such a system's rule in the configuration.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from common.sections.section import Name, Section

MOST_COMBINATIONS = 1_000_000
"""Of all measurements' grades: MULTITUDE weighs each of them."""

Values = Annotated[
    tuple[Annotated[int, Field(ge=0, le=15)], ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, int) else given),
    Field(min_length=1, max_length=16),
    AfterValidator(lambda given: tuple(sorted(set(given)))),
]
"""One grade, or several of which any will do."""
Pattern = Annotated[dict[Name, Values], Field(min_length=1)]
"""Measurement -> its grades; a measurement that is not named may have any grade."""


class ValidityTable(Section):
    """A rule of validity: a combination can be if it fits a pattern of ``allowed`` and none of ``forbidden``.

    Without patterns in ``allowed`` everything is allowed that is not forbidden. Of grades that are not all known yet,
    what is known decides: a combination cannot be if no grade of the others makes it fit.
    """

    allowed: tuple[Pattern, ...] = ()
    forbidden: tuple[Pattern, ...] = ()

    def objection(self, grades: Mapping[str, int | None]) -> str | None:
        """Why grades cannot be together, naming the rule; ``None``: they can.

        Args:
            grades: measurement -> grade, ``None`` where it is not known.
        """
        for pattern in self.forbidden:
            if all(grades.get(name) in values for name, values in pattern.items()):
                return f"validity.forbidden has {shown(pattern)}"
        if self.allowed and not any(_may_fit(grades, pattern) for pattern in self.allowed):
            return "validity.allowed has no such combination"
        return None

    def problem(self, grades: Mapping[str, int]) -> str | None:
        """Why measurements cannot have this rule; ``None``: they can.

        Args:
            grades: measurement -> number of its grades.
        """
        for kind, patterns in (("allowed", self.allowed), ("forbidden", self.forbidden)):
            for pattern in patterns:
                for name, values in pattern.items():
                    where = f"validity.{kind} ({shown(pattern)}) names {name}"
                    if name not in grades:
                        return f"{where}; the measurements are {list(grades)}"
                    if values[-1] >= grades[name]:
                        return f"{where} {values[-1]}; its grades are 0 to {grades[name] - 1}"
        if not self.allowed and not self.forbidden:
            return (
                'validity has neither allowed nor forbidden combinations: name some, or set validity = "any"'
            )
        if (count := math.prod(grades.values())) > MOST_COMBINATIONS:
            return f"validity is for up to {MOST_COMBINATIONS} combinations of grades, got {count}"
        every = itertools.product(*map(range, grades.values()))
        if all(self.objection(dict(zip(grades, one, strict=True))) for one in every):
            return "validity leaves no combination of grades that can be"
        return None


def shown(pattern: Mapping[str, tuple[int, ...]]) -> str:
    """A pattern for reading: ``t 0, n 1|2``."""
    return ", ".join(f"{name} {'|'.join(map(str, values))}" for name, values in pattern.items())


def dumped(validity: Validity) -> object:
    """A rule as plain JSON values, a name as it is."""
    return validity.model_dump(mode="json") if isinstance(validity, ValidityTable) else validity


def _may_fit(grades: Mapping[str, int | None], pattern: Mapping[str, tuple[int, ...]]) -> bool:
    return all((grade := grades.get(name)) is None or grade in values for name, values in pattern.items())


Validity: TypeAlias = Annotated[
    Annotated[Literal["eoss", "any"], Tag("name")] | Annotated[ValidityTable, Tag("table")],
    Discriminator(lambda given: "name" if isinstance(given, str) else "table"),
]
"""``eoss`` forbids hypertrophy 0 with vascularity > 0; ``any`` forbids nothing; or a table of one's own."""
