"""The sites of the Sharp/van der Heijde score of hands, its total, and the ten classes of severity.

Sources: van der Heijde, J Rheumatol 2000;27:261-3 (sites and ranges); the classes are those of Bo, Coates and
Papiez 2024 (arXiv 2406.09980).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

DIGITS = (1, 2, 3, 4, 5)
FINGERS = (2, 3, 4, 5)
EROSION_SITES = (
    "IP1", *(f"MCP{digit}" for digit in DIGITS), *(f"PIP{digit}" for digit in FINGERS),
    "MC1", "trapezium", "scaphoid", "lunate", "radius", "ulna",
)  # fmt: skip
"""Sixteen a hand, each 0-5; ``MC1`` is the base of the first metacarpal."""
NARROWING_SITES = (
    *(f"MCP{digit}" for digit in DIGITS), *(f"PIP{digit}" for digit in FINGERS),
    "CMC3", "CMC4", "CMC5", "scaphotrapezial", "scaphocapitate", "radioscaphoid",
)  # fmt: skip
"""Fifteen a hand, each 0-4."""
WORST_EROSION, WORST_NARROWING = 5, 4
WORST_TOTAL = 2 * (len(EROSION_SITES) * WORST_EROSION + len(NARROWING_SITES) * WORST_NARROWING)
"""280, of both hands."""
CLASS_EDGES = (2, 5, 10, 15, 20, 30, 45, 70, 110)
"""Totals at which the next class begins: the lower edge belongs to the class."""
CLASSES = len(CLASS_EDGES) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Grades of both hands, the left one first.

    Attributes:
        erosion: ``(2, 16)``, 0-5 each.
        narrowing: ``(2, 15)``, 0-4 each.
    """

    erosion: NDArray[np.int64]
    narrowing: NDArray[np.int64]

    @property
    def by_hand(self) -> NDArray[np.int64]:
        """What each hand adds to the total, ``(2,)``, 0-140 each."""
        return np.asarray(self.erosion.sum(axis=1) + self.narrowing.sum(axis=1))

    @property
    def total(self) -> int:
        """The sum over all sites, 0-280."""
        return int(self.by_hand.sum())

    def mirrored(self) -> Self:
        """The scores of the picture's mirror image."""
        return type(self)(erosion=self.erosion[::-1].copy(), narrowing=self.narrowing[::-1].copy())


def severity_class(total: float) -> int:
    """The class 0-9 of a total; means of readers may lie between whole points."""
    return int(np.searchsorted(CLASS_EDGES, total, side="right"))
