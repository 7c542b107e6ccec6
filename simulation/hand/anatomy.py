"""A patient's hands before they are laid out: sizes in millimetres, the patient's own joint widths, posture, decoys.

Sizes are of men; women are smaller. Lengths of phalanges and first metacarpal: Buryanov and Kotiuk 2010; of the
other metacarpals: 40 tomographies (Arch Bone Jt Surg). Healthy joint widths: 1.6-1.7 mm at metacarpophalangeal
joints, 1.0-1.2 mm at proximal interphalangeal ones, 1.5-2 mm in the wrist.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulation.hand.damage import Damage
from simulation.hand.sites import NARROWING_SITES
from simulation.phantom.arrays import Floats, Mask

METACARPAL_MM = (46.0, 67.7, 66.1, 58.0, 52.3)
PROXIMAL_MM = (31.6, 39.8, 44.6, 41.4, 32.7)
MIDDLE_MM = (0.0, 22.4, 26.3, 25.7, 18.1)
DISTAL_MM = (21.7, 15.8, 17.4, 17.3, 16.0)
"""Lengths from thumb to little finger; the thumb has no middle phalanx."""
WOMEN, WOMEN_SHARE = 0.92, 0.7
"""Size relative to men, and share of the patients."""
OWN_WIDTH_MM = {"MCP": 1.65, "PIP": 1.10, "CMC": 1.50, "sca": 1.60, "rad": 1.90}
"""By the first letters of a site."""
PATIENT_SPREAD, JOINT_SPREAD = 0.085, 0.075
"""Relative spreads of own widths between patients and between a patient's joints."""
DISTAL_WIDTH_MM, THUMB_WIDTH_MM = 0.95, 1.1
"""Of the unscored distal interphalangeal joints and of the thumb's."""
ANGLES = (34.0, 8.5, 0.5, -7.5, -16.0)
"""Directions of the metacarpals in degrees, > 0 towards the thumb."""
SPURS, CYSTS = 8, 4
"""Most osteophytes and cysts of a hand."""
AMPUTATED_SHARE, DRIFTS_SHARE = 0.03, 0.12
CORNER_MM = (64.0, 58.0)
"""Usual place of the hand's origin, in the middle of the radius' joint surface, from the corner of its half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What both hands of a patient have in common; arrays run from thumb to little finger.

    Attributes:
        scale: of all lengths, 1 for a usual man.
        lengths: of metacarpals, proximal, middle and distal phalanges relative to the usual, ``(4, 5)``.
        slimness: widths of bones relative to the usual.
        flesh: thickness of soft tissue relative to the usual.
        cortex: thickness of the cortex relative to the usual.
        density: of trabeculae relative to the usual.
        own_width_mm: of the joints that are scored for narrowing, ``(15,)``.
        variance_mm: how far the ulna stands out beyond the radius.
        carpals: shifts of the carpal bones in millimetres, ``(8, 2)``.
    """

    scale: float
    lengths: Floats
    slimness: float
    flesh: float
    cortex: float
    density: float
    own_width_mm: Floats
    variance_mm: float
    carpals: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Posture:
    """How a hand lies on the detector; angles in degrees, > 0 towards the thumb.

    Attributes:
        place_mm: of its origin from the corner of its half of the field, x inwards and y to the fingers, ``(2,)``.
        turn: of the whole hand.
        rays: of the five metacarpals, ``(5,)``.
        bends: of each phalanx against the bone before it, ``(3, 5)``.
    """

    place_mm: Floats
    turn: float
    rays: Floats
    bends: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoys:
    """What is wrong with a hand and not scored.

    Attributes:
        distal_left: share of the own width that is left at distal joints of fingers 2-5: osteoarthritis, ``(4,)``.
        spurs: osteophytes at distal joints, from spur 0 to ``SPURS``: sizes in mm, ``(8,)``.
        cyst_at: places of cysts in their bones, ``(4, 2)``, in the unit square.
        cyst_mm: their radii, 0 for none, ``(4,)``.
        amputated: finger without its distal phalanx, 0 for none.
        drift: of the fingers against the metacarpals towards the little finger, in degrees.
    """

    distal_left: Floats
    spurs: Floats
    cyst_at: Floats
    cyst_mm: Floats
    amputated: int
    drift: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """One hand, as a left one: the thumb is at higher x."""

    build: Build
    damage: Damage
    posture: Posture
    decoys: Decoys

    @property
    def width_mm(self) -> Floats:
        """Mean width of the joints that are scored for narrowing, ``(15,)``."""
        return np.asarray(self.build.own_width_mm * self.damage.left)


def turned(posture: Posture, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Places of the hand's frame as the hand lies, from its origin."""
    cos, sin = np.cos(np.radians(posture.turn)), np.sin(np.radians(posture.turn))
    return np.asarray(x * cos + y * sin), np.asarray(y * cos - x * sin)


def draw_build(rng: np.random.Generator) -> Build:
    """A patient's build."""
    scale = (WOMEN if rng.random() < WOMEN_SHARE else 1.0) * float(np.clip(rng.normal(1, 0.04), 0.91, 1.08))
    usual = np.array([OWN_WIDTH_MM[site[:3]] for site in NARROWING_SITES])
    patient = np.exp(rng.normal(0, PATIENT_SPREAD))
    return Build(
        scale=scale,
        lengths=np.clip(rng.normal(1, 0.025, (4, 5)), 0.93, 1.07),
        slimness=float(rng.uniform(0.93, 1.08)),
        flesh=float(rng.uniform(0.90, 1.16)),
        cortex=float(rng.uniform(0.62, 1.1)),
        density=float(rng.uniform(0.65, 1.25)),
        own_width_mm=usual * scale * patient * np.exp(rng.normal(0, JOINT_SPREAD, len(usual))),
        variance_mm=float(np.clip(rng.normal(-0.5, 1.2), -3.5, 2.5)),
        carpals=rng.normal(0, 0.45, (8, 2)),
    )


def draw_posture(rng: np.random.Generator) -> Posture:
    """How somebody lays a hand down."""
    spread = rng.uniform(0.75, 1.25)
    rays = np.array(ANGLES) * spread + rng.normal(0, 0.6, 5)
    rays[0] = ANGLES[0] + rng.normal(0, 4.0)
    bends = rng.normal(0, (1.5, 1.8, 1.8), (5, 3)).T
    bends[0] -= 0.4 * rays  # fingers are less spread than their metacarpals
    return Posture(
        place_mm=np.array(CORNER_MM) + rng.uniform((-4, -8), (5, 6)),
        turn=float(np.clip(rng.normal(0, 2.0), -4, 4)),
        rays=rays,
        bends=bends,
    )


def draw_decoys(rng: np.random.Generator, *, osteoarthritis: float) -> Decoys:
    """Unscored findings; ``osteoarthritis`` in [0, 1] is what both hands of a patient have of it."""
    worn = rng.random(4) < 0.7 * osteoarthritis
    spurs = np.where(rng.random(SPURS) < osteoarthritis, rng.uniform(0.8, 2.4, SPURS), 0.0)
    cysts: Mask = rng.random(CYSTS) < 0.22
    return Decoys(
        distal_left=np.where(worn, rng.uniform(0.15, 0.7, 4), 1.0),
        spurs=spurs,
        cyst_at=rng.uniform(0, 1, (CYSTS, 2)),
        cyst_mm=np.where(cysts, rng.uniform(0.9, 2.0, CYSTS), 0.0),
        amputated=int(rng.integers(2, 6)) if rng.random() < AMPUTATED_SHARE else 0,
        drift=float(rng.uniform(6, 17)) if rng.random() < DRIFTS_SHARE else float(rng.normal(0, 1.5)),
    )
