"""Lays out a hand's tubular bones and small round ones: every joint space gets the width that its grade leaves.

Positions are in the hand's frame in mm: 0 in the middle of the radius' joint surface, x towards the thumb, y to the
fingers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulation.hand.anatomy import (
    DISTAL_MM,
    DISTAL_WIDTH_MM,
    METACARPAL_MM,
    MIDDLE_MM,
    PROXIMAL_MM,
    THUMB_WIDTH_MM,
    Hand,
    Posture,
    turned,
)
from simulation.hand.long_bones import FOCAL_MEAN, Bite, End, LongBone
from simulation.hand.sites import DIGITS, EROSION_SITES, NARROWING_SITES
from simulation.phantom.arrays import Floats

HALF_MM = (
    ((7.6, 7.6, 6.9, 6.1, 6.6), (4.6, 4.4, 4.3, 3.6, 3.8), (7.3, 7.4, 7.4, 6.6, 6.3)),
    ((7.2, 7.5, 7.8, 7.2, 6.4), (4.2, 4.8, 5.0, 4.6, 3.9), (5.9, 5.7, 6.0, 5.6, 4.8)),
    ((0.0, 6.6, 7.0, 6.6, 5.5), (0.0, 4.0, 4.3, 4.1, 3.3), (0.0, 5.0, 5.3, 5.0, 4.2)),
    ((6.8, 5.2, 5.5, 5.3, 4.6), (3.6, 2.5, 2.7, 2.6, 2.2), (4.8, 3.8, 4.1, 3.9, 3.3)),
)
"""Half widths of base, shaft and head of metacarpals, proximal, middle and distal phalanges, thumb first."""
FLARES_MM = ((9.0, 9.0), (7.5, 6.0), (6.0, 4.5), (4.5, 2.6))
CURVES = (1.35, 2.0, 2.3, 0.75)
"""Radius of a head's surface relative to half its width."""
NOTCHES_MM = (0.0, 0.6, 0.5, 0.0)
CORTEX_MM = (2.3, 2.1, 1.7, 1.0)
BASES_MM = ((25.5, 30.0), (11.5, 34.6), (1.5, 35.6), (-7.6, 34.4), (-15.8, 32.4))
"""Poles of the metacarpals' bases."""
BASE_SLOPES = (0.10, 0.0, 0.08, 0.10, 0.05)
FOREARM_MM = 130.0
STYLOID = ((-25.0, -5.6, 2.7), (-25.4, -3.8, 1.7))
BASE_PART, COLLAPSED = 0.6, 0.8
"""Erosion of a base relative to that of the head on it, whose share is the grade; as much once the head is lost."""
STYLOID_LOST = 0.25
"""Share of the ulna's surface with which its tip is lost, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pebble:
    """A small round bone or spur: its middle, radius and thickness in mm."""

    at: tuple[float, float]
    radius_mm: float
    thick_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """The bones of a hand but for its carpus; rays from thumb to little finger, each from its metacarpal outwards."""

    rays: tuple[tuple[LongBone, ...], ...]
    radius: LongBone
    ulna: LongBone
    pebbles: tuple[Pebble, ...]

    @property
    def bones(self) -> tuple[LongBone, ...]:
        """All tubular bones."""
        return (*(bone for ray in self.rays for bone in ray), self.radius, self.ulna)

    def tips(self, posture: Posture) -> tuple[Floats, Floats]:
        """Heads of all bones of the rays as the hand lies, in mm from its origin: towards the thumb's side and up."""
        x, y = np.array([bone.at(bone.length_mm) for ray in self.rays for bone in ray]).T
        return turned(posture, x, y)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joint:
    """One joint of a ray: what separates the bones, and what is lost of them."""

    gap_mm: float
    focal_mm: float = 0.0
    focal_side: float = 0.0
    displaced: float = 0.0
    bites: tuple[Bite, ...] = ()
    plate: float = 1.0


def lay_out(hand: Hand) -> Skeleton:
    """The skeleton of a hand."""
    rays = tuple(_ray(hand, digit) for digit in DIGITS)
    return Skeleton(rays=rays, radius=_radius(hand), ulna=_ulna(hand), pebbles=_pebbles(hand, rays))


def bites(hand: Hand, site: str) -> tuple[Bite, ...]:
    """What erosions take from a surface: their shares add up to what the site has lost."""
    index = EROSION_SITES.index(site)
    lost, radial = float(hand.damage.lost[index]), float(hand.damage.radial[index])
    depth_mm = hand.build.scale * (1.3 + 6.0 * lost)
    parts = ((1.0, lost * radial), (-1.0, lost * (1 - radial)))
    return tuple(Bite(side=side, share=part, depth_mm=depth_mm) for side, part in parts if part > 0)


def _ray(hand: Hand, digit: int) -> tuple[LongBone, ...]:
    bend = np.radians(hand.posture.bends[:, digit - 1])
    if digit > 1:
        bend[0] -= np.radians(hand.decoys.drift)
    first = _bone(hand, 0, digit)
    x, y = BASES_MM[digit - 1]
    scale = hand.build.scale
    angle = float(np.radians(hand.posture.rays[digit - 1]))
    ray = [replace(first, base_at=(x * scale, y * scale), angle=angle)]
    kinds = (1, 3) if digit == 1 else (1, 2) if digit == hand.decoys.amputated else (1, 2, 3)
    for place, kind in enumerate(kinds):
        joint = _joint(hand, digit, place)
        before = ray[-1]
        ray[-1] = replace(before, head=replace(before.head, bites=joint.bites, plate=joint.plate))
        ray.append(_joined(before, _bone(hand, kind, digit), joint, before.angle + float(bend[place])))
    return tuple(ray)


def _joint(hand: Hand, digit: int, place: int) -> _Joint:
    """The joint after the metacarpal (place 0), after the proximal and after the middle phalanx."""
    if place == 1 and digit == 1:
        return _Joint(gap_mm=THUMB_WIDTH_MM * hand.build.scale, bites=bites(hand, "IP1"))
    if place == 2:
        return _Joint(gap_mm=DISTAL_WIDTH_MM * hand.build.scale * float(hand.decoys.distal_left[digit - 2]))
    site = ("MCP", "PIP")[place] + str(digit)
    index, damage = NARROWING_SITES.index(site), hand.damage
    own, left = float(hand.build.own_width_mm[index]), float(damage.left[index])
    focal_side = float(damage.focal[index])
    return _Joint(
        gap_mm=own if focal_side else own * left,
        focal_mm=own * (1 - left) / FOCAL_MEAN if focal_side else 0.0,
        focal_side=focal_side,
        displaced=float(damage.displaced[index]),
        bites=bites(hand, site),
        plate=0.1 if damage.fused[index] else 1.0,
    )


def _joined(before: LongBone, bone: LongBone, joint: _Joint, angle: float) -> LongBone:
    """The bone behind a joint: it turns about the middle of the head before it, and fits on that head."""
    radius = before.head.curve_mm
    middle = before.at(before.length_mm - radius)
    placed = replace(bone, base_at=middle, angle=angle)
    over = max(joint.displaced - 0.5, 0.0) * 16.0
    pole = placed.at(radius + joint.gap_mm - over, -2 * joint.displaced * before.head.half_mm)
    part = 1.0 if sum(bite.share for bite in joint.bites) > COLLAPSED else BASE_PART
    smaller = tuple(replace(b, share=part * b.share, depth_mm=part * b.depth_mm) for b in joint.bites)
    base = replace(
        bone.base, curve_mm=radius, notch_mm=before.head.notch_mm, bites=smaller, plate=joint.plate
    )
    return replace(placed, base_at=pole, base=base, focal_mm=joint.focal_mm, focal_side=joint.focal_side)


def _bone(hand: Hand, kind: int, digit: int) -> LongBone:
    build = hand.build
    length = (METACARPAL_MM, PROXIMAL_MM, MIDDLE_MM, DISTAL_MM)[kind][digit - 1]
    base, waist, head = (build.scale * build.slimness * half[digit - 1] for half in HALF_MM[kind])
    flares = [build.scale * flare for flare in FLARES_MM[kind]]
    first = kind == 0
    return LongBone(
        base_at=(0.0, 0.0),
        angle=0.0,
        length_mm=build.scale * length * float(build.lengths[kind, digit - 1]),
        waist_mm=waist,
        cortex_mm=build.scale * build.cortex * CORTEX_MM[kind],
        base=End(
            half_mm=base,
            flare_mm=flares[0],
            curve_mm=-22.0 if first and digit == 1 else 45.0,
            slope=BASE_SLOPES[digit - 1] if first else 0.0,
            bites=bites(hand, "MC1") if first and digit == 1 else (),
        ),
        head=End(half_mm=head, flare_mm=flares[1], curve_mm=CURVES[kind] * head, notch_mm=NOTCHES_MM[kind]),
        flat=0.8 if kind == 3 else 0.9,
    )


def _radius(hand: Hand) -> LongBone:
    scale, lost = hand.build.scale, bites(hand, "radius")
    end = End(half_mm=15.5 * scale, flare_mm=23 * scale, curve_mm=-42 * scale, slope=0.36, bites=lost)
    return _forearm(hand, end, x_mm=6.0, reach_mm=0.0, waist_mm=7.0, angle=-0.02)


def _ulna(hand: Hand) -> LongBone:
    scale, lost = hand.build.scale, bites(hand, "ulna")
    end = End(half_mm=8.2 * scale, flare_mm=13 * scale, curve_mm=16 * scale, slope=-0.1, bites=lost)
    reach_mm = -4.5 + hand.build.variance_mm
    return _forearm(hand, end, x_mm=-19.5, reach_mm=reach_mm, waist_mm=5.3, angle=0.03)


def _forearm(
    hand: Hand, end: End, *, x_mm: float, reach_mm: float, waist_mm: float, angle: float
) -> LongBone:
    """A bone that comes from below the picture and ends at ``reach_mm``."""
    scale, length = hand.build.scale, FOREARM_MM * hand.build.scale
    pole = (x_mm * scale, reach_mm * scale)
    return LongBone(
        base_at=(pole[0] - length * np.sin(angle), pole[1] - length * np.cos(angle)),
        angle=angle,
        length_mm=length,
        waist_mm=waist_mm * scale,
        cortex_mm=2.6 * hand.build.cortex * scale,
        base=End(half_mm=waist_mm * scale, flare_mm=10.0, curve_mm=60.0),
        head=end,
        flat=0.62 if waist_mm > 6 else 0.8,
    )


def _pebbles(hand: Hand, rays: tuple[tuple[LongBone, ...], ...]) -> tuple[Pebble, ...]:
    """Sesamoids, the tip of the ulna, osteophytes."""
    scale, thumb = hand.build.scale, rays[0][0]
    found = []
    if hand.damage.lost[EROSION_SITES.index("ulna")] < STYLOID_LOST:
        found += [
            Pebble(at=(x * scale, y * scale + hand.build.variance_mm), radius_mm=radius * scale, thick_mm=2.5)
            for x, y, radius in STYLOID
        ]
    for side in (-0.62, 0.25):
        at = thumb.at(thumb.length_mm - 4.0 * scale, side * thumb.head.half_mm)
        found.append(Pebble(at=at, radius_mm=2.5 * scale, thick_mm=3.5))
    for index, size in enumerate(hand.decoys.spurs):
        bone, side = rays[1 + index // 2][-1], 1 - 2 * (index % 2)
        if size > 0:
            at = bone.at(0.4 * scale, side * (bone.base.half_mm - 0.2))
            found.append(Pebble(at=at, radius_mm=float(size) * 0.8, thick_mm=2.5))
    return tuple(found)
