"""What is read of an exam: grades, classes of a diagnosis, numbers, and from which images."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from common.sections.section import GrowingSection, Name

Images = Annotated[tuple[Name, ...], Field(min_length=1)]
Value = Annotated[float, Field(ge=-1e9, le=1e9)]


class MeasurementSettings(GrowingSection):
    """What is told apart in grades 0, 1 .., and the images that its networks read, in this order.

    Readers give the grade in a column of the site's grades; or it is the class of a manifest's column (``column`` and
    ``classes``), or of a number (``number`` and ``edges``).
    """

    later: ClassVar[tuple[str, ...]] = ("column", "classes", "number", "edges")

    grades: Annotated[int, Field(ge=2, le=16)] = 4
    """How many there are; of classes and edges it follows."""
    images: Annotated[tuple[str, ...], Field(min_length=1)]
    column: Literal["", "diagnosis"] = ""
    """The manifest's column that has it; empty: readers give it."""
    classes: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = ()
    """Of ``column``: the values of grade 0, of grade 1 ..; an exam with any other value takes no part."""
    number: str = ""
    """The number (``[numbers]``) whose class it is; empty: of none."""
    edges: tuple[Value, ...] = ()
    """Of ``number``: where grade 1 begins, grade 2 ..; an edge belongs to the higher grade."""

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, given: Any) -> Any:
        """Grades that follow from classes or edges need not be given."""
        if isinstance(given, dict) and "grades" not in given:
            count = len(given.get("classes") or ()) or (len(given["edges"]) + 1 if given.get("edges") else 0)
            return given | {"grades": count} if count else given
        return given

    @model_validator(mode="after")
    def _of_one_source(self) -> MeasurementSettings:
        if bool(self.column) != bool(self.classes):
            raise ValueError("column and classes belong together: classes says which values make which grade")
        if bool(self.number) != bool(self.edges):
            raise ValueError("number and edges belong together: edges says where each grade begins")
        if self.column and self.number:
            raise ValueError("column and number cannot both be: a grade comes of one of them")
        count = len(self.classes) or len(self.edges) + 1
        if (self.classes or self.edges) and self.grades != count:
            raise ValueError(f"grades is {self.grades}, but there are {count} classes")
        values = [value for of_grade in self.classes for value in of_grade]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"classes has {twice[0]!r} twice: a value has one grade")
        if any(left >= right for left, right in pairwise(self.edges)):
            raise ValueError("edges must rise")
        return self

    def class_of(self, text: str) -> int | None:
        """The grade of a value of the column; ``None`` where it has none."""
        found = (grade for grade, values in enumerate(self.classes) if text in values)
        return next(found, None)

    def grade_of(self, value: float) -> int:
        """The grade of a value of the number."""
        return bisect_right(self.edges, value)

    @property
    def by_readers(self) -> bool:
        """Whether readers give it, in a column of its own."""
        return not self.column and not self.number

    def source(self, name: str) -> str:
        """The column that it is read from, under its own name or another's, and what is in it, for a person."""
        if self.column:
            return f"{self.column} ({' | '.join(', '.join(values) for values in self.classes)})"
        return (
            f"{self.number} (as {self.grades} classes)" if self.number else f"{name} ({self.grades} grades)"
        )


class NumberSettings(GrowingSection):
    """A number that readers give in a column of its own, such as a total score; its consensus is their mean."""

    later: ClassVar[tuple[str, ...]] = ("usual", "spread")

    smallest: Value = 0.0
    largest: Value
    step: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    """Readers give whole multiples of it above ``smallest``."""
    images: Images
    usual: Value | None = None
    """What is usually given, and with ``spread`` how far that varies: networks learn the number in these units, so
    that no step of the optimiser is far too long. Known beforehand, never counted at sites; without them the units
    are those of the range, ``smallest`` 0 and ``largest`` 1."""
    spread: Annotated[float, Field(gt=0, le=1e9)] | None = None

    @model_validator(mode="after")
    def _a_range(self) -> NumberSettings:
        if not self.smallest < self.largest:
            raise ValueError(f"smallest is {self.smallest:g}, largest {self.largest:g}: nothing lies between")
        if self.usual is not None and not self.smallest <= self.usual <= self.largest:
            raise ValueError(f"usual is {self.usual:g}, expected from {self.smallest:g} to {self.largest:g}")
        if self.spread is not None and not self.width / 1e6 <= self.spread <= self.width:
            raise ValueError(f"spread is {self.spread:g}, expected a part of the range, up to {self.width:g}")
        return self

    @property
    def width(self) -> float:
        """From ``smallest`` to ``largest``."""
        return self.largest - self.smallest

    @property
    def units(self) -> tuple[float, float]:
        """In which networks learn it, as shares of the range: what is zero, and what is one more than that."""
        usual = self.smallest if self.usual is None else self.usual
        return self.share(usual), 1.0 if self.spread is None else self.spread / self.width

    def share(self, value: float) -> float:
        """Where a value lies between ``smallest`` (0) and ``largest`` (1)."""
        return (value - self.smallest) / self.width
