"""What a grade is in a joint: the share of the surface that is lost, and of the patient's own width that is left.

Shares are drawn inside the grade's band and never between two bands, so that what is drawn has one true grade.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simulation.hand.sites import NARROWING_SITES, WORST_NARROWING, Scores
from simulation.phantom.arrays import Floats, Mask

LOST = ((0.0, 0.0), (0.06, 0.13), (0.20, 0.32), (0.42, 0.54), (0.62, 0.76), (0.88, 1.0))
"""Share of the joint's surface that is lost at erosion 0-5: discrete, larger, across the midline, ..., collapse."""
LEFT = ((0.95, 1.05), (0.80, 0.90), (0.55, 0.90), (0.15, 0.45), (0.0, 0.0))
"""Share of the own width that is left, averaged over the joint, at narrowing 0-4."""
HALF = 0.5
"""Left share below which narrowing is 3."""
WIDE = 0.925
"""Left share below which an evenly narrowed joint has lost width."""
SUBLUXED, LUXATED = (0.24, 0.38), (0.60, 0.85)
"""Displacement across the joint, in widths of the head."""
SUBLUXED_SHARE, LUXATED_SHARE = 0.45, 0.4
"""Of the fingers' joints of narrowing 3 that are subluxed instead of narrow, and of 4 that are luxated, not fused."""
SUBLUXED_LEFT = (0.35, 0.95)
"""Left share of subluxed joints."""
_EDGES = tuple((lower[1] + upper[0]) / 2 for lower, upper in pairwise(LOST))
_FINGERS = np.array([site.startswith(("MCP", "PIP")) for site in NARROWING_SITES])


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Damage of one hand.

    Attributes:
        lost: share of each site's surface that is eroded, ``(16,)``.
        radial: part of it at the radial margin, ``(16,)``; the rest is at the ulnar one.
        left: share of the own width that is left at each joint, ``(15,)``.
        focal: side of the joint at which it is narrowed, -1 ulnar, 1 radial, 0 evenly, ``(15,)``.
        displaced: of the distal bone towards the little finger, in widths of the head, ``(15,)``.
    """

    lost: Floats
    radial: Floats
    left: Floats
    focal: Floats
    displaced: Floats

    @property
    def fused(self) -> Mask:
        """Joints that are bone throughout, ``(15,)``."""
        return np.asarray(self.left <= 0)


def draw_damage(rng: np.random.Generator, erosion: NDArray[np.int64], narrowing: NDArray[np.int64]) -> Damage:
    """Damage of these grades.

    Args:
        rng: of the hand.
        erosion: ``(16,)``.
        narrowing: ``(15,)``.
    """
    lost = _within(rng, LOST, erosion)
    left = _within(rng, LEFT, narrowing)
    # Of what is evenly narrowed, most is so a little: measured widths of grades 1 and 2 are near each other.
    low, high = LEFT[2]
    left = np.where(narrowing == 2, high - np.maximum(high - left, 0) ** 1.5 / (high - low) ** 0.5, left)
    slips = rng.random(len(left)) < np.where(narrowing == WORST_NARROWING, LUXATED_SHARE, SUBLUXED_SHARE)
    subluxed, luxated = (slips & _FINGERS & (narrowing == worse) for worse in (3, WORST_NARROWING))
    left = np.where(subluxed | luxated, rng.uniform(*SUBLUXED_LEFT, len(left)), left)
    return Damage(
        lost=lost,
        radial=np.where(lost > 0.55, rng.uniform(0.4, 0.6, len(lost)), rng.beta(1.4, 0.8, len(lost))),
        left=left,
        focal=np.where(narrowing == 1, rng.choice([-1.0, 1.0], len(left)), 0.0),
        displaced=np.select(
            [subluxed, luxated], [rng.uniform(*SUBLUXED, len(left)), rng.uniform(*LUXATED, len(left))], 0.0
        ),
    )


def erosion_grades(lost: Floats) -> NDArray[np.int64]:
    """Grades 0-5 of shares of surface that are lost, of any shape."""
    return np.asarray(np.searchsorted(_EDGES, lost, side="right"), np.int64)


def narrowing_grades(damage: Damage) -> NDArray[np.int64]:
    """Grades 0-4 of a hand's joints, ``(15,)``."""
    luxated = damage.displaced > (SUBLUXED[1] + LUXATED[0]) / 2
    conditions = [
        damage.fused | luxated,
        (damage.displaced > 0) | (damage.left < HALF),
        damage.focal != 0,
        damage.left < WIDE,
    ]
    return np.asarray(np.select(conditions, [4, 3, 1, 2], 0), np.int64)


def scores(left: Damage, right: Damage) -> Scores:
    """The grades that two hands have by their damage."""
    return Scores(
        erosion=np.stack([erosion_grades(left.lost), erosion_grades(right.lost)]),
        narrowing=np.stack([narrowing_grades(left), narrowing_grades(right)]),
    )


def _within(
    rng: np.random.Generator, bands: tuple[tuple[float, float], ...], grades: NDArray[np.int64]
) -> Floats:
    low, high = np.array(bands).T
    return np.asarray(rng.uniform(low[grades], high[grades]))
