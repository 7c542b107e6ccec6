"""The eight carpal bones: crowded, each bounded by its neighbours, with a gap of given width between any two.

A bone is a union of circles. Between two of them runs the curve of equal distance to both, half a gap away from
either; beside metacarpals, radius and ulna the carpal bones give way (an additively weighted Voronoi diagram).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulation.hand.anatomy import Hand
from simulation.hand.long_bones import depths
from simulation.hand.sites import EROSION_SITES, NARROWING_SITES
from simulation.hand.skeleton import Skeleton
from simulation.phantom.arrays import Singles

NAMES = ("scaphoid", "lunate", "triquetrum", "trapezium", "trapezoid", "capitate", "hamate")
CIRCLES = {
    "scaphoid": ((8.5, 7.8, 6.6), (14.5, 12.5, 5.8), (18.0, 16.5, 5.6)),
    "lunate": ((-3.8, 6.6, 7.6), (-4.5, 9.5, 6.5)),
    "triquetrum": ((-16.5, 9.0, 6.6), (-19.0, 12.5, 5.2)),
    "trapezium": ((19.6, 26.0, 6.8), (22.5, 25.0, 6.6)),
    "trapezoid": ((11.3, 26.5, 6.4), (12.0, 29.5, 5.6)),
    "capitate": ((2.2, 16.0, 6.6), (2.2, 22.0, 6.2), (1.6, 29.0, 7.6)),
    "hamate": ((-8.6, 17.5, 5.2), (-10.5, 23.0, 6.6), (-12.0, 28.0, 8.2)),
}
"""Middles and radii in mm of a usual man."""
PISIFORM = (-19.5, 12.0, 5.0)
USUAL_MM = 1.45
"""Width of gaps that are not scored."""
TIGHT = {("trapezium", "trapezoid"): 0.7, ("capitate", "trapezoid"): 0.9}
SCORED = {
    ("scaphoid", "trapezium"): "scaphotrapezial",
    ("scaphoid", "trapezoid"): "scaphotrapezial",
    ("scaphoid", "capitate"): "scaphocapitate",
    ("scaphoid", "radius"): "radioscaphoid",
    ("capitate", "MC3"): "CMC3",
    ("hamate", "MC4"): "CMC4",
    ("hamate", "MC5"): "CMC5",
}
"""Gaps whose width is scored."""
FOCI_MM = {
    "scaphotrapezial": (18.5, 20.5), "scaphocapitate": (7.5, 14.0), "radioscaphoid": (15.0, 6.0), "CMC3": (0.0, 35.0),
    "CMC4": (-8.0, 33.5), "CMC5": (-16.0, 31.0),
}  # fmt: skip
"""Where such a joint narrows first."""
FOCUS_MM = 3.2
ERODED_MM = {
    "trapezium": ((27.0, 27.5), (15.5, 22.5), 8.0),
    "scaphoid": ((20.5, 10.5), (4.5, 4.0), 8.5),
    "lunate": ((2.0, 2.0), (-10.5, 4.5), 8.0),
}
"""Margins from which a carpal bone is eroded, radial and ulnar, and the radius of its outline."""
MERGED_MM = -3.0
ROUND_MM = 2.2
"""How far from a corner it is rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A joint space of the carpus: its width away from the focus, and how much less it is there, in mm."""

    width_mm: float
    focal_mm: float
    site: str = ""


def space(hand: Hand, one: str, other: str) -> Space:
    """The space between two neighbours."""
    site = SCORED.get((one, other), SCORED.get((other, one), ""))
    if not site:
        narrow = TIGHT.get((one, other), TIGHT.get((other, one), USUAL_MM))
        return Space(width_mm=narrow * hand.build.scale, focal_mm=0.0)
    index = NARROWING_SITES.index(site)
    own, left = float(hand.build.own_width_mm[index]), float(hand.damage.left[index])
    if hand.damage.fused[index]:
        return Space(width_mm=MERGED_MM, focal_mm=0.0, site=site)
    if hand.damage.focal[index]:
        return Space(width_mm=own, focal_mm=own * min(4 * (1 - left), 0.75), site=site)
    return Space(width_mm=own * left, focal_mm=0.0, site=site)


def inside(hand: Hand, skeleton: Skeleton, x: Singles, y: Singles) -> Singles:
    """How deep places of the hand's frame lie in a carpal bone, in mm; < 0 outside of all."""
    scale = np.float32(hand.build.scale)
    away = {name: _away(hand, index, x, y) for index, name in enumerate(NAMES)}
    fixed = {
        **{f"MC{digit}": skeleton.rays[digit - 1][0] for digit in range(1, 6)},
        "radius": skeleton.radius,
        "ulna": skeleton.ulna,
    }
    clear = {name: -depths(bone, *bone.frame(x, y)).inside for name, bone in fixed.items()}
    clear["radius"] = clear["radius"] * np.float32(0.94)  # its surface slopes
    found = np.full(x.shape, -9, np.float32)
    for name in NAMES:
        depth = -away[name] + np.float32(1.0) * scale
        for other in NAMES:
            if other != name:
                gap = _gap(hand, name, other, x, y)
                depth = _rounded(depth, (away[other] - away[name] - gap) / 2)
        for other, free in clear.items():
            depth = _rounded(depth, free - _gap(hand, name, other, x, y))
        found = np.maximum(found, _eroded(hand, name, depth, x, y))
    return found


def _away(hand: Hand, index: int, x: Singles, y: Singles) -> Singles:
    scale, (dx, dy) = hand.build.scale, hand.build.carpals[index]
    circles = CIRCLES[NAMES[index]]
    return np.asarray(
        np.min(
            [
                np.hypot(x - np.float32(scale * cx + dx), y - np.float32(scale * cy + dy)) - np.float32(scale * r)
                for cx, cy, r in circles
            ],
            axis=0,
        )
    )


def _gap(hand: Hand, one: str, other: str, x: Singles, y: Singles) -> Singles | np.float32:
    between = space(hand, one, other)
    if not between.focal_mm:
        return np.float32(between.width_mm)
    fx, fy = FOCI_MM[between.site]
    scale = hand.build.scale
    square = (x - np.float32(scale * fx)) ** 2 + (y - np.float32(scale * fy)) ** 2
    focus = np.exp(-square / np.float32((FOCUS_MM * scale) ** 2))
    return np.asarray(np.float32(between.width_mm) - np.float32(between.focal_mm) * focus)


def _rounded(one: Singles, other: Singles) -> Singles:
    """The smaller of both, less near corners; unchanged where they differ by more than ``ROUND_MM``."""
    near = np.maximum(np.float32(ROUND_MM) - np.abs(one - other), 0)
    return np.asarray(np.minimum(one, other) - near * near / np.float32(4 * ROUND_MM))


def _eroded(hand: Hand, name: str, depth: Singles, x: Singles, y: Singles) -> Singles:
    """A bone without its erosions: circles about its margins that cut off the lost shares of its outline."""
    if name not in ERODED_MM:
        return depth
    index, scale = EROSION_SITES.index(name), hand.build.scale
    *margins, radius = ERODED_MM[name]
    lost, radial = float(hand.damage.lost[index]), float(hand.damage.radial[index])
    for (mx, my), share in zip(margins, (lost * radial, lost * (1 - radial)), strict=True):
        reach = 2 * radius * scale * np.sin(np.pi * share / 2)
        away = np.hypot(x - np.float32(scale * mx), y - np.float32(scale * my)) - np.float32(reach)
        depth = np.minimum(depth, away) if share > 0 else depth
    return depth
