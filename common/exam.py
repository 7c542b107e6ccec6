"""Joint exams, their images, grades and what makes a grade usable."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

MISSING = -1
"""A grade that no reader gave, and the fold of a held-out exam."""
SEXES = ("F", "M", "other")
SMALLEST_PX = 16
"""A narrower or lower region is a mistake, and no scan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roi:
    """A rectangle in pixels of the picture, origin at its upper left."""

    x: int
    y: int
    width: int
    height: int

    @property
    def text(self) -> str:
        """``x y width height``, as :meth:`parse` reads it."""
        return f"{self.x} {self.y} {self.width} {self.height}"

    @classmethod
    def parse(cls, text: str) -> Roi:
        """Read ``x y width height``.

        Raises:
            ValueError: if it is not four whole numbers with sides of at least ``SMALLEST_PX``; says what is wrong.
        """
        parts = text.split()
        for part in parts:
            if not re.fullmatch(r"[+-]?[0-9]{1,9}", part):
                between = ", numbers are set apart by blanks alone" if set(part) & set(",;") else ""
                raise ValueError(f"{part!r} is no whole number{between}")
        if len(parts) != 4:
            raise ValueError(f"got {len(parts)} numbers, not 4")
        x, y, width, height = map(int, parts)
        if x < 0 or y < 0:
            raise ValueError("x or y is negative, outside of the picture")
        if width <= 0 or height <= 0:
            raise ValueError("its area is zero: width and height must be positive")
        if min(width, height) < SMALLEST_PX:
            raise ValueError(f"it is narrower or lower than {SMALLEST_PX} pixels, too small for a scan")
        return cls(x=x, y=y, width=width, height=height)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """An image of an exam: where it lies, relative to the site's folder, and its region of interest.

    Attributes:
        kind: ``still`` or ``clip`` (several frames: a file, or a folder of them).
        roi: of all frames; ``None``: the whole picture.
        frames: that a clip has, if the manifest says so.
        frame_rate: frames per second, likewise.
    """

    path: str
    roi: Roi | None = None
    kind: Literal["still", "clip"] = "still"
    frames: int | None = None
    frame_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """One joint of one patient at one visit, as the manifest has it.

    Attributes:
        line: line of the manifest, for messages.
        targets: measurement -> consensus grade, ``None`` where no reader gave one.
        numbers: number -> mean of the readers, ``None`` where none gave it.
        age: of the patient at the visit, in whole years; ``None``: not known.
        sex: of the patient, of ``SEXES``, or empty where it is not known.
        excluded: why the site leaves the exam out, or empty.
        split: ``train``, ``test``, or empty where the site decides.
        fold: a fold given by the manifest, or ``None``.
    """

    line: int
    exam_id: str
    patient_id: str
    images: Mapping[str, ImageRef]
    device: str = "unknown"
    diagnosis: str = ""
    joint: str = ""
    age: int | None = None
    sex: str = ""
    excluded: str = ""
    split: str = ""
    fold: int | None = None
    targets: Mapping[str, int | None]
    numbers: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def graded(self) -> bool:
        """Whether some measurement has a grade, or a number is known."""
        return any(value is not None for value in (*self.targets.values(), *self.numbers.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """An exam that is left out, and why."""

    exam_id: str
    line: int
    reason: str


def consensus(grades: Sequence[tuple[str, int]], rule: str) -> int | None:
    """One grade from several readers'.

    Args:
        grades: (reader, grade), gaps left out.
        rule: ``median`` (of an even number: the lower middle), ``majority`` (a tie goes to the lower grade)
            or ``reader:NAME``.

    Returns:
        The grade, or ``None`` where the rule finds no reader.
    """
    if rule.startswith("reader:"):
        wanted = rule.removeprefix("reader:")
        return next((grade for reader, grade in grades if reader == wanted), None)
    values = sorted(grade for _, grade in grades)
    if not values:
        return None
    if rule == "median":
        return values[(len(values) - 1) // 2]
    counts = Counter(values)
    return min(counts, key=lambda grade: (-counts[grade], grade))


def mean(values: Sequence[tuple[str, float]], rule: str) -> float | None:
    """One number from several readers': their mean, or by the rule ``reader:NAME`` that reader's.

    Args:
        values: (reader, number), gaps left out.
        rule: of the site, as in :func:`consensus`.
    """
    if rule.startswith("reader:"):
        wanted = rule.removeprefix("reader:")
        return next((value for reader, value in values if reader == wanted), None)
    return sum(value for _, value in values) / len(values) if values else None


def repair(
    targets: Mapping[str, int | None],
    *,
    grades: Mapping[str, int],
    is_valid: Callable[[tuple[int, ...]], bool],
) -> dict[str, int | None]:
    """The valid combination nearest to a consensus (sum of absolute differences; ties to the lower grades).

    Readers who are each consistent can still have a consensus that is not, where it is taken measurement by
    measurement over different readers. A combination with a gap is left as it is.
    """
    names = list(grades)
    given = tuple(targets[name] for name in names)
    known = tuple(grade for grade in given if grade is not None)
    if len(known) < len(names) or is_valid(known):
        return dict(targets)
    candidates = [c for c in _combinations([grades[name] for name in names]) if is_valid(c)]
    nearest = min(candidates, key=lambda c: (sum(abs(a - b) for a, b in zip(c, known, strict=True)), c))
    return dict(zip(names, nearest, strict=True))


def _combinations(counts: Sequence[int]) -> list[tuple[int, ...]]:
    combinations: list[tuple[int, ...]] = [()]
    for count in counts:
        combinations = [(*c, grade) for c in combinations for grade in range(count)]
    return combinations
