"""The eight carpal bones: crowded, each bounded by its neighbours, with a gap of given width between any two.

A bone is a union of circles. Between two of them runs the curve of equal distance to both, half a gap away from
either; beside metacarpals, radius and ulna the carpal bones give way (an additively weighted Voronoi diagram).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy.ndimage import gaussian_filter

from simulation.hand.anatomy import Hand
from simulation.hand.grid import Patch
from simulation.hand.long_bones import depths
from simulation.hand.sites import EROSION_SITES, NARROWING_SITES
from simulation.hand.skeleton import Skeleton
from simulation.phantom.arrays import Singles

NAMES = ("scaphoid", "lunate", "triquetrum", "trapezium", "trapezoid", "capitate", "hamate")
CIRCLES = {
    "scaphoid": ((8.8, 7.0, 6.0), (13.0, 10.0, 5.6), (17.3, 15.0, 5.4)),
    "lunate": ((-3.8, 5.8, 6.8), (-4.5, 8.5, 6.0)),
    "triquetrum": ((-15.5, 8.0, 5.4), (-18.0, 12.0, 4.8)),
    "trapezium": ((19.3, 25.0, 5.6), (21.5, 24.0, 5.4)),
    "trapezoid": ((11.0, 25.5, 5.8), (11.3, 29.5, 5.8)),
    "capitate": ((2.0, 16.0, 5.8), (2.2, 22.0, 5.6), (1.8, 29.0, 6.4)),
    "hamate": ((-8.2, 16.5, 4.6), (-9.5, 23.0, 5.8), (-11.5, 28.0, 6.8)),
}
"""Middles and radii in mm of a usual man."""
BULGE_MM = 2.4
"""How far a bone may reach beyond its circles where no neighbour stops it."""
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
RAGGED = 0.05
"""Unevenness of an erosion's border relative to its radius."""
MERGED_MM = -3.0
"""Joints that are fused have no space left: the bones lie over each other."""
ROUND_MM = 1.2
"""How far from a corner it is rounded, and then smoothed by a Gaussian of spread ``SMOOTH_MM``."""
SMOOTH_MM = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """Where a carpal bone is eroded, in mm of a usual man: a circle about it, two directions in degrees from y."""

    middle: tuple[float, float]
    outline_mm: float
    radial: float
    ulnar: float


MARGINS = {
    "trapezium": Margins(middle=(20.3, 24.5), outline_mm=7.6, radial=65.0, ulnar=-125.0),
    "scaphoid": Margins(middle=(13.0, 10.5), outline_mm=8.6, radial=100.0, ulnar=-125.0),
    "lunate": Margins(middle=(-4.0, 7.0), outline_mm=8.0, radial=130.0, ulnar=-105.0),
}
BITE_AT = 1.4
"""Distance of a bite's middle from that of the outline, relative to the outline's radius: bites are flat."""


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


def inside(hand: Hand, skeleton: Skeleton, patch: Patch, *, px_mm: float) -> Singles:
    """How deep places lie in a carpal bone, in mm; < 0 outside of all.

    Args:
        hand: whose widths of joints and erosions it has.
        skeleton: of the same hand.
        patch: the places.
        px_mm: distance of neighbours among them.
    """
    x, y = patch.x, patch.y
    fields = [_field(hand, index, x, y) for index in range(len(NAMES))]
    clear = _clear(skeleton, x, y)
    found = np.full(np.broadcast_shapes(x.shape, y.shape), -9, np.float32)
    for name, field in zip(NAMES, fields, strict=True):
        depth = np.float32(BULGE_MM * hand.build.scale) - field.away
        for other, theirs in zip(NAMES, fields, strict=True):
            if other != name:
                depth = _rounded(depth, field.before(theirs) - _gap(hand, name, other, x, y) / 2)
        for other, free in clear.items():
            depth = _rounded(depth, free - _gap(hand, name, other, x, y))
        bone = eroded(hand, name, depth, x, y)
        found = np.maximum(found, gaussian_filter(bone, SMOOTH_MM / px_mm, truncate=2.5))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """Distance of places to the circles of a bone in mm, and the direction from there, a unit vector."""

    away: Singles
    dx: Singles
    dy: Singles

    def before(self, other: _Field) -> Singles:
        """How far places lie on this bone's side of the curve of equal distance to both."""
        slope = np.hypot(self.dx - other.dx, self.dy - other.dy)
        return np.asarray((other.away - self.away) / np.maximum(slope, np.float32(0.8)))


def _field(hand: Hand, index: int, x: Singles, y: Singles) -> _Field:
    scale, (dx, dy) = hand.build.scale, hand.build.carpals[index]

    def of_circle(cx: float, cy: float, radius: float) -> _Field:
        ox, oy = x - np.float32(scale * cx + dx), y - np.float32(scale * cy + dy)
        far = np.maximum(np.hypot(ox, oy), np.float32(1e-3))
        return _Field(away=far - np.float32(scale * radius), dx=ox / far, dy=oy / far)

    return reduce(_nearer, (of_circle(*circle) for circle in CIRCLES[NAMES[index]]))


def _nearer(one: _Field, other: _Field) -> _Field:
    first = one.away <= other.away
    return _Field(
        away=np.where(first, one.away, other.away),
        dx=np.where(first, one.dx, other.dx),
        dy=np.where(first, one.dy, other.dy),
    )


def _clear(skeleton: Skeleton, x: Singles, y: Singles) -> dict[str, Singles]:
    """How far places are from the tubular bones about the carpus."""
    fixed = {f"MC{digit}": ray[0] for digit, ray in enumerate(skeleton.rays, start=1)}
    fixed |= {"radius": skeleton.radius, "ulna": skeleton.ulna}
    clear = {name: -depths(bone, *bone.frame(x, y)).inside for name, bone in fixed.items()}
    clear["radius"] *= np.float32(1 / np.hypot(1, skeleton.radius.head.slope))  # along its axis it is farther
    return clear


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


def eroded(hand: Hand, name: str, depth: Singles, x: Singles, y: Singles) -> Singles:
    """A bone without its erosions: ragged circles at its margins that cut off the lost shares of its outline."""
    if name not in MARGINS:
        return depth
    margins, index, scale = MARGINS[name], EROSION_SITES.index(name), hand.build.scale
    lost, radial = float(hand.damage.lost[index]), float(hand.damage.radial[index])
    (cx, cy), outline = margins.middle, margins.outline_mm * scale
    for degrees, share in ((margins.radial, lost * radial), (margins.ulnar, lost * (1 - radial))):
        if share > 0:
            away, turn = BITE_AT * outline, np.radians(degrees)
            ox = x - np.float32(scale * cx + away * np.sin(turn))
            oy = y - np.float32(scale * cy + away * np.cos(turn))
            # cuts the outline at both ends of the arc that is lost
            reach = np.sqrt(outline**2 + away**2 - 2 * outline * away * np.cos(np.pi * min(share, 1.0)))
            ragged = np.float32(RAGGED) * np.sin(np.arctan2(oy, ox) * np.float32(9) + np.float32(20 * radial))
            depth = np.minimum(depth, np.hypot(ox, oy) - np.float32(reach) * (1 + ragged))
    return depth
