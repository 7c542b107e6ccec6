"""Tubular bones as smooth shapes: a shaft that flares to a concave base and a convex head, eroded from the margins.

In a bone's own frame ``u`` runs from base to head, 0 at the base's pole, and ``v`` across, > 0 towards the thumb.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulation.phantom.arrays import Singles

PLATE_MM = 0.55
"""Thickness of the bone under a joint's surface."""
RIM_MM = 0.7
"""Depth at which an end has its full thickness."""
RAGGED = 0.08
"""Unevenness of an erosion's border relative to its size."""
CORNER, CORNER_DEEP = 0.22, 0.35
"""How much narrower an end is at its surface; how far below it the rounding begins, in half widths of the head."""
FOCAL_MEAN = 0.303
"""Mean over -1..1 of exp(-((x - 0.5) / 0.35)^2), by which a joint narrows in one place."""
FILM = 0.03
"""Share of the bone that is left in an erosion."""
MARROW, SPONGY_MM = 0.3, 11.0
"""Share of the core that is spongy bone in mid-shaft, and how far from the ends it becomes that little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bite:
    """What an erosion takes from a margin of an end: a quarter of an ellipse.

    Attributes:
        side: 1 at the thumb's side, -1 at the other.
        share: of the width of the joint's surface.
        depth_mm: along the bone.
    """

    side: float
    share: float
    depth_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Base or head of a bone.

    Attributes:
        half_mm: half its width.
        flare_mm: length over which it becomes the shaft.
        curve_mm: radius of its surface, convex for a head, and as much for the base that fits on it.
        slope: of the surface, > 0 if it reaches farther at the thumb's side.
        notch_mm: groove between the condyles of a head, and ridge of the base that fits.
        plate: 1 with the usual bone under the surface, 0 where it is fused to the next.
        bites: erosions.
    """

    half_mm: float
    flare_mm: float
    curve_mm: float
    slope: float = 0.0
    notch_mm: float = 0.0
    plate: float = 1.0
    bites: tuple[Bite, ...] = ()

    @property
    def edge_mm(self) -> float:
        """Half the width of the joint's surface: corners are rounded."""
        return self.half_mm * (1 - CORNER)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongBone:
    """A bone with a base and a head, in the hand's frame.

    Attributes:
        base_at: pole of the base (x, y) in mm.
        angle: of its axis in radians, from y towards x.
        length_mm: from pole to pole.
        waist_mm: half the width of the shaft.
        cortex_mm: of the shaft; thinner towards the ends.
        base: the near end.
        head: the far end.
        focal_mm: how far the base comes nearer where the joint before it is narrowed in one place.
        focal_side: there: 1 at the thumb's side, -1 at the other.
        flat: depth of the bone relative to its width.
    """

    base_at: tuple[float, float]
    angle: float
    length_mm: float
    waist_mm: float
    cortex_mm: float
    base: End
    head: End
    focal_mm: float = 0.0
    focal_side: float = 0.0
    flat: float = 0.9

    @property
    def axis(self) -> tuple[float, float]:
        """Unit vector from base to head."""
        return float(np.sin(self.angle)), float(np.cos(self.angle))

    def at(self, u_mm: float, v_mm: float = 0.0) -> tuple[float, float]:
        """A place in the hand's frame."""
        (x, y), (dx, dy) = self.base_at, self.axis
        return x + u_mm * dx + v_mm * dy, y + u_mm * dy - v_mm * dx

    def frame(self, x: Singles, y: Singles) -> tuple[Singles, Singles]:
        """``u`` and ``v`` of places in the hand's frame."""
        dx, dy = self.axis
        ox, oy = x - np.float32(self.base_at[0]), y - np.float32(self.base_at[1])
        return ox * np.float32(dx) + oy * np.float32(dy), ox * np.float32(dy) - oy * np.float32(dx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """Of places in a bone, in mm: how deep they are; < 0 outside.

    Attributes:
        half: half the width of the bone there.
        v: place across.
        base: below the base's surface.
        head: below the head's surface.
        left: share of the bone that erosions leave, 0 to 1.
    """

    half: Singles
    v: Singles
    base: Singles
    head: Singles
    left: Singles

    @property
    def inside(self) -> Singles:
        """Below the nearest surface."""
        return np.minimum(np.minimum(self.base, self.head), self.half - np.abs(self.v))


def depths(bone: LongBone, u: Singles, v: Singles) -> Depths:
    """How deep places of the bone's frame lie in it."""
    base = u - surface(bone.base, v) + _focal(bone, v)
    head = np.float32(bone.length_mm) + surface(bone.head, v) - u
    half = bone.waist_mm + sum(
        (end.half_mm - bone.waist_mm)
        * np.exp(-((np.maximum(along - 0.25 * end.flare_mm, 0) / end.flare_mm) ** 2))
        for end, along in ((bone.base, u), (bone.head, np.float32(bone.length_mm) - u))
    )
    corner = np.clip(1 - np.minimum(base, head) / np.float32(CORNER_DEEP * bone.head.half_mm), 0, 1)
    half = np.asarray(half * (1 - np.float32(CORNER) * corner * corner), np.float32)
    left = np.asarray(_left(bone.base, base, v) * _left(bone.head, head, v), np.float32)
    return Depths(half=half, v=v, base=base, head=head, left=left)


def surface(end: End, v: Singles) -> Singles:
    """How far a surface reaches beyond its pole, along the bone's axis: the same curve for a head and its base."""
    rise = np.float32(end.slope) * v - v * v * np.float32(0.5 / end.curve_mm)
    if not end.notch_mm:
        return np.asarray(rise)
    across = v * np.float32(1 / (0.38 * end.half_mm))
    return np.asarray(rise - np.float32(end.notch_mm) * np.exp(-across * across))


def thickness(bone: LongBone, d: Depths) -> tuple[Singles, Singles]:
    """Thickness in mm of cortex and of spongy bone, as of a tube with closed ends."""
    at_end = np.minimum(d.base, d.head)
    cortex = np.float32(bone.cortex_mm) * np.clip(at_end / np.float32(0.30 * bone.length_mm), 0.16, 1)
    cortex = np.minimum(cortex, np.float32(0.62) * d.half)
    ends = _closed(d.base, bone.base) * _closed(d.head, bone.head)
    cores = _closed(_below(d.base, bone.base), bone.base) * _closed(_below(d.head, bone.head), bone.head)
    outer = _chord(d.half, d.v) * ends
    inner = np.minimum(_chord(d.half - cortex, d.v) * cores, outer)
    scale = np.float32(2 * bone.flat) * d.left
    canal = np.float32(MARROW) + np.float32(1 - MARROW) * np.exp(
        -np.maximum(at_end, 0) / np.float32(SPONGY_MM)
    )
    return (outer - inner) * scale, inner * canal * scale


def _below(depth: Singles, end: End) -> Singles:
    """Depth under the plate below a surface."""
    return depth - np.float32(PLATE_MM * end.plate)


def _closed(depth: Singles, end: End) -> Singles:
    rim = np.clip(depth / np.float32(RIM_MM), 0, 1)
    if end.plate == 1:
        return np.asarray(rim)
    sharp = np.clip(depth / np.float32(0.2) + 0.5, 0, 1)
    return np.asarray(np.float32(end.plate) * rim + np.float32(1 - end.plate) * sharp)


def _chord(half: Singles, v: Singles) -> Singles:
    return np.asarray(np.sqrt(np.maximum(half * half - v * v, 0) * (half > 0)))


def _focal(bone: LongBone, v: Singles) -> Singles | np.float32:
    if not bone.focal_mm:
        return np.float32(0)
    across = (v / np.float32(bone.base.edge_mm) - np.float32(0.5 * bone.focal_side)) / np.float32(0.35)
    return np.asarray(np.float32(bone.focal_mm) * np.exp(-across * across))


def _left(end: End, depth: Singles, v: Singles) -> Singles | np.float32:
    left: Singles | np.float32 = np.float32(1)
    for bite in end.bites:
        # from the margin inwards; beyond the margin there is nothing
        inwards = np.maximum(end.edge_mm - bite.side * v, 0) / np.float32(2 * end.edge_mm * bite.share)
        deep = np.maximum(depth, 0)
        # uneven inside only: at the surface the share is exact
        waves = np.sin(np.float32(1.1) * v + np.float32(0.9) * deep) + np.sin(np.float32(0.47) * v - deep)
        uneven = np.float32(RAGGED) * np.minimum(deep, 1) * waves
        radius = np.hypot(inwards, deep / np.float32(bite.depth_mm)) * (1 + uneven)
        soft = np.float32(min(0.9, 0.7 / bite.depth_mm))
        left = left * np.clip((radius - 1) / soft + 0.5, FILM, 1)
    return left
