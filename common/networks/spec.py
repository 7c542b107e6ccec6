"""What a network is: its name, the images it reads, the target it learns, its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a network predicts from an exam's grades.

    Attributes:
        measurement: the graded column, for example ``hypertrophy``.
        kind: ``binary`` (grade > ``threshold``) or ``nominal`` (one class a grade).
        threshold: for ``binary``, the grade that is exceeded, 0 .. grades - 2.
        classes: the number of output classes; 2 for ``binary``.
    """

    measurement: str
    kind: Literal["binary", "nominal"] = "binary"
    threshold: int | None = 0
    classes: int = 2

    @property
    def label(self) -> str:
        """Short form for names: ``gt0`` or ``grades``."""
        return f"gt{self.threshold}" if self.kind == "binary" else "grades"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """One network of a method.

    Attributes:
        name: unique in a campaign, for example ``rating/fold2/vascularity/gt1/b``.
        images: the images it reads; two are fused by an MLP over the concatenated features.
        target: what it learns.
        fold: the validation fold, -1 for none.
        replica: index of the replica; replicas differ in their seed only.
    """

    name: str
    images: tuple[str, ...]
    target: Target
    fold: int = -1
    replica: int = 0
