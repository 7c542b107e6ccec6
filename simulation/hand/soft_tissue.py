"""Skin, fat, muscle and tendons about the bones: how thick the hand is along the beam."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from simulation.hand.anatomy import Hand
from simulation.hand.grid import Grid, Patch
from simulation.hand.skeleton import Skeleton
from simulation.phantom.arrays import Singles

FINGER_MM = ((12.0, 11.5, 9.8), (10.8, 9.9, 8.3), (10.8, 10.0, 8.5), (10.3, 9.4, 8.1), (9.6, 8.5, 7.3))
"""Radii at the knuckle, at the next joint and at the tip, thumb first."""
PALM_MM = (14.5, 13.0, 13.0, 13.0, 13.5)
"""Radii about the metacarpals."""
FOREARM = ((-17.0, 14.0), (-9.0, 16.0), (0.0, 17.0), (9.0, 16.0), (16.0, 14.0))
"""Places across the forearm, and radii there."""
TIP_MM = 1.2
FLAT = 0.80
"""Thickness of the hand relative to its width."""
ELBOW_MM = -160.0
SHARP = 3
"""Exponent with which what overlaps becomes one: the larger, the more the thickest alone counts."""
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """A rounded cylinder from one point to another, in the hand's frame in mm."""

    start: Point
    end: Point
    start_mm: float
    end_mm: float


def thickness(hand: Hand, skeleton: Skeleton, grid: Grid) -> Singles:
    """Thickness of the whole hand in mm at each pixel."""
    total = np.zeros((grid.height, grid.width), np.float32)
    for roll in _rolls(hand, skeleton):
        patch = grid.patch([roll.start, roll.end], margin_mm=max(roll.start_mm, roll.end_mm))
        if patch is not None:
            total[patch.rows, patch.columns] += _squares(roll, patch) ** SHARP
    return np.asarray(np.float32(2 * FLAT) * total ** np.float32(0.5 / SHARP))


def _squares(roll: Roll, patch: Patch) -> Singles:
    """The squared half thickness."""
    (sx, sy), (ex, ey) = roll.start, roll.end
    length = max(float(np.hypot(ex - sx, ey - sy)), 1e-3)
    dx, dy = np.float32((ex - sx) / length), np.float32((ey - sy) / length)
    x, y = patch.x - np.float32(sx), patch.y - np.float32(sy)
    along = np.clip(x * dx + y * dy, 0, np.float32(length))
    radius = np.float32(roll.start_mm) + np.float32((roll.end_mm - roll.start_mm) / length) * along
    off = (x - along * dx) ** 2 + (y - along * dy) ** 2
    return np.asarray(np.maximum(radius * radius - off, 0))


def _rolls(hand: Hand, skeleton: Skeleton) -> list[Roll]:
    scale, flesh = hand.build.scale, hand.build.scale * hand.build.flesh
    rolls = []

    def add(start: Point, end: Point, start_mm: float, end_mm: float) -> None:
        rolls.append(Roll(start=start, end=end, start_mm=start_mm * flesh, end_mm=end_mm * flesh))

    for digit, (ray, radii) in enumerate(zip(skeleton.rays, FINGER_MM, strict=True)):
        first, last = ray[0], ray[-1]
        # the web reaches to the middle of the proximal phalanx
        add(first.at(2.0), first.at(first.length_mm), PALM_MM[digit] - 1.0, PALM_MM[digit] - 0.5)
        add(
            first.at(first.length_mm),
            ray[1].at(0.45 * ray[1].length_mm),
            PALM_MM[digit] - 0.5,
            radii[0] - 0.3,
        )
        joints = [first.at(first.length_mm), *(bone.at(bone.length_mm) for bone in ray[1:-1])]
        ends = [*joints, last.at(last.length_mm + TIP_MM * scale - radii[2] * flesh * 0.55)]
        for index, (start, end) in enumerate(pairwise(ends)):
            thick = (*radii[:2], radii[1] - 0.4, radii[2])
            add(start, end, thick[index], radii[2] if end is ends[-1] else thick[index + 1])
    thumb, index_ray = skeleton.rays[0][0], skeleton.rays[1][0]
    for part in (0.3, 0.55, 0.75):
        add(thumb.at(part * thumb.length_mm), index_ray.at(part * 0.75 * index_ray.length_mm), 11.0, 11.0)
    for x, radius in FOREARM:
        add((x * scale, 28.0 * scale), (x * 1.02 * scale, -22.0 * scale), radius - 1.0, radius)
        add((x * 1.02 * scale, -22.0 * scale), (x * 1.25 * scale, ELBOW_MM), radius, radius * 1.25)
    return rolls
