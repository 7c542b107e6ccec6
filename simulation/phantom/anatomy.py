"""A dorsal longitudinal section of a finger joint or wrist, in millimetres.

``x`` runs from proximal to distal, 0 at the gap between the bones; depth ``z`` runs downwards from the probe.
Every border is a curve z(x). The *joint line* is the straight line over the tops of both bones; the upper
contour of the synovium relative to it is the hypertrophy grade.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from scipy.ndimage import gaussian_filter1d

from simulation.phantom.arrays import Floats
from simulation.phantom.diagnosis import Signs
from simulation.phantom.severity import EFFUSION_SHARE, NOTCH_SHARE, Severity

SCALE = {"MCP": 1.0, "PIP": 0.88, "DIP": 0.80, "wrist": 1.08}
"""Size of a joint relative to a metacarpophalangeal one."""
HEALTHY_CAPSULE_MM = 0.66
"""Distance from bone to capsule in a healthy joint, 0.6-0.7 mm."""
CARTILAGE_MM = 0.55
HYPOECHOIC_SHARE = 0.35
"""Share of effusions that are hypoechoic, hard to tell from synovium, instead of anechoic."""
NO_BONE_MM = 60.0
"""Depth of the bone where there is none, in the gap."""
EROSION_RADIUS_MM = 0.38
INTERCARPAL_SHARE = 0.5
"""Share of wrists seen over radius, lunate and capitate, with two gaps; the others at the radioulnar joint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joints:
    """Parameters of ``n`` sections, one array ``(n,)`` each; lengths in millimetres, levels in decibels."""

    scale: Floats
    depth: Floats
    tilt: Floats
    gap: Floats
    proximal_top: Floats
    distal_top: Floats
    proximal_drop: Floats
    distal_drop: Floats
    roundness: Floats
    second_gap: Floats
    neck: Floats
    shaft: Floats
    notch: Floats
    notch_at: Floats
    cartilage: Floats
    skin: Floats
    dermis: Floats
    tendon: Floats
    pad: Floats
    bow: Floats
    hypertrophy: Floats
    fullness: Floats
    reach_proximal: Floats
    reach_distal: Floats
    effusion: Floats
    mimic: Floats
    synovium_db: Floats
    effusion_db: Floats
    squeezed: Floats
    """Share of an effusion's height that the probe presses away; synovium stays."""
    paratenon: Floats
    paratenon_db: Floats
    erosion: Floats
    erosion_proximal: Floats
    erosion_distal: Floats

    def __len__(self) -> int:
        return len(self.depth)

    def take(self, index: slice) -> Self:
        """Some of the sections."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Contours:
    """Borders z(x) in millimetres from the probe, each ``(n, columns)``, from above to below."""

    skin: Floats
    dermis: Floats
    tendon_top: Floats
    tendon_bottom: Floats
    capsule: Floats
    effusion: Floats
    synovium: Floats
    cartilage: Floats
    bone: Floats
    joint_line: Floats


def draw_joints(
    rng: np.random.Generator, severity: Severity, *, kinds: list[str], signs: Signs | None = None
) -> Joints:
    """Random anatomy of one patient's joints.

    Args:
        rng: the patient's generator.
        severity: of the same joints; its hypertrophy fixes the synovium's contour.
        kinds: ``MCP``, ``PIP``, ``DIP`` or ``wrist`` for each joint.
        signs: of a diagnosis; ``None``: there are none.
    """
    n = len(severity)
    signs = Signs.absent(n) if signs is None else signs
    scale = np.array([SCALE[kind] for kind in kinds]) * rng.uniform(0.95, 1.05)
    wrist = np.array([kind == "wrist" for kind in kinds])

    def between(low: float, high: float) -> Floats:
        return np.asarray(rng.uniform(low, high, n))

    skin, dermis, tendon = between(0.5, 1.3), between(0.8, 1.1), between(0.8, 1.6) * scale
    fat, pad = rng.uniform(0.3, 2.0) + between(0.0, 0.8), between(0.0, 1.4) * scale
    size = between(0.0, 1.0)
    effused = rng.random(n) < EFFUSION_SHARE
    mimic = np.where(
        severity.hypertrophy < 1, rng.choice([1.0, 2.0, 3.0], n, p=[0.4, 0.3, 0.3]) + rng.random(n), 0
    )
    fullness = 0.48 + 0.75 * size + between(-0.1, 0.1)
    swollen = np.maximum(_swelling(severity.hypertrophy), np.where(effused, _swelling(mimic), 0.0))
    swelling = swollen * fullness * scale
    notched = (rng.random(n) < NOTCH_SHARE) & ~wrist
    intercarpal = wrist & (rng.random(n) < INTERCARPAL_SHARE)
    return Joints(
        scale=scale,
        # What swells compresses what lies over it: the skin rises by a part of it at most.
        depth=skin + dermis + tendon + pad + 0.9 * scale + np.maximum(fat + 0.35 * swelling, swelling - 0.3),
        tilt=np.clip(rng.normal(0, 0.09, n), -0.18, 0.18),
        gap=np.where(wrist & ~intercarpal, between(0.8, 1.3), between(1.3, 2.0)) * scale,
        proximal_top=between(2.7, 3.2) * scale,
        distal_top=between(1.9, 2.3) * scale,
        proximal_drop=between(1.4, 1.9) * scale,
        distal_drop=between(0.9, 1.4) * scale,
        roundness=between(1.4, 3.4),
        second_gap=np.where(intercarpal, between(2.6, 3.6) * scale, NO_BONE_MM),
        neck=np.where(wrist, between(0.2, 0.5), between(0.8, 1.6)) * scale,
        shaft=np.where(wrist, between(1.0, 1.8), between(0.5, 1.0)) * scale,
        notch=np.where(notched, 0.3 * rng.uniform(0.8, 1.3, n), 0.0),
        notch_at=between(0.6, 1.6),
        cartilage=CARTILAGE_MM * between(0.7, 0.95) * scale,
        skin=skin,
        dermis=dermis,
        tendon=tendon,
        pad=pad,
        bow=rng.normal(0, 0.006, n),
        hypertrophy=severity.hypertrophy,
        fullness=fullness,
        reach_proximal=-0.9 + 3.8 * size + between(-0.2, 0.4),
        reach_distal=-0.5 + 2.0 * size + between(-0.2, 0.2),
        effusion=np.where(effused, between(0.25, 0.75), 0.0) * scale,
        mimic=np.where(effused, mimic, 0.0),
        synovium_db=rng.normal(-28.5, 1.8, n),
        effusion_db=np.where(rng.random(n) < HYPOECHOIC_SHARE, between(-37.0, -27.0), between(-58.0, -46.0)),
        squeezed=np.zeros(n),
        paratenon=signs.paratenon_mm,
        paratenon_db=signs.paratenon_db,
        erosion=signs.erosion_mm,
        erosion_proximal=-0.8 + 1.1 * signs.places[:, 1],
        erosion_distal=-0.8 + 1.1 * signs.places[:, 2],
    )


def contours(joints: Joints, x_mm: Floats) -> Contours:
    """The borders of each section.

    Args:
        joints: parameters of ``n`` sections.
        x_mm: positions ``(n, columns)``, equally spaced.
    """
    j = {f.name: getattr(joints, f.name)[:, None] for f in fields(joints)}
    line = j["depth"] + j["tilt"] * x_mm
    profile, outside = _bone(j, x_mm)
    bone = line + profile
    floor = line + 2.3 * j["scale"]
    cartilage = np.minimum(bone - _cartilage(j, x_mm), floor)
    synovium = _upper(j, j["hypertrophy"], x_mm, line, cartilage)
    mimicked = _upper(j, j["mimic"], x_mm, line, cartilage)
    layer = j["effusion"] * _window(j, np.maximum(j["hypertrophy"], 1.0), x_mm) * (j["hypertrophy"] >= 1)
    effusion = np.minimum(np.where(j["hypertrophy"] >= 1, synovium - layer, mimicked), synovium)
    flattened = synovium - (1 - j["squeezed"]) * (synovium - effusion)
    effusion = np.where(j["squeezed"] > 0, flattened, effusion)
    rest = line + 0.6 * outside - HEALTHY_CAPSULE_MM * j["scale"]
    raised = np.where(effusion < cartilage, effusion - 0.06, NO_BONE_MM)
    px_mm = float(x_mm[0, 1] - x_mm[0, 0])
    bottom = (
        gaussian_filter1d(np.minimum(rest, raised), 0.35 / px_mm, axis=-1, mode="nearest") - 0.32 * j["scale"]
    )
    capsule = np.minimum(np.maximum(bottom + 0.22 * j["scale"], 0.0), np.minimum(effusion, cartilage) - 0.05)
    tendon_bottom = np.minimum(bottom, capsule - 0.08) - j["pad"]
    skin = j["skin"] + 0.6 * j["tilt"] * x_mm + j["bow"] * x_mm**2
    dermis = skin + j["dermis"]
    tendon_top = np.maximum(tendon_bottom - j["tendon"], dermis + 0.1)
    return Contours(
        skin=skin,
        dermis=dermis,
        tendon_top=tendon_top,
        tendon_bottom=np.maximum(tendon_bottom, tendon_top + 0.3),
        capsule=capsule,
        effusion=effusion,
        synovium=synovium,
        cartilage=cartilage,
        bone=bone,
        joint_line=line,
    )


def _swelling(hypertrophy: Floats) -> Floats:
    """Greatest height above the joint line of a joint of scale 1, in millimetres."""
    height, sagitta = _height(hypertrophy)
    return np.maximum(height + np.maximum(sagitta, 0.0), 0.0)


def _height(hypertrophy: Floats) -> tuple[Floats, Floats]:
    """Height of the synovium's shoulders over the joint line, and how far its middle stands over them.

    Grade 1 stays below the line; 2 lies above it, concave to flat; 3 above it, convex.
    """
    grade, part = np.floor(hypertrophy), hypertrophy % 1.0
    height = np.select([grade == 1, grade == 2], [-0.85 + 0.70 * part, 0.85 + 0.30 * part], 0.85)
    sagitta = np.select([grade == 1, grade == 2], [0.0, -0.36 + 0.34 * part], 0.68 + 0.95 * part)
    return height, sagitta


def _upper(j: dict[str, Floats], hypertrophy: Floats, x: Floats, line: Floats, lower: Floats) -> Floats:
    """Upper contour of what fills the recess; equal to ``lower`` where nothing does."""
    height, sagitta = _height(hypertrophy)
    left, right = _reach(j, hypertrophy)
    middle, half = (left + right) / 2, (right - left) / 2
    arch = 1 - ((x - middle) / half) ** 2
    full = np.where(hypertrophy >= 2, j["fullness"], 1.0)
    top = line - (height + sagitta * arch) * full * j["scale"]
    window = _window(j, hypertrophy, x)
    return np.where(hypertrophy >= 1, np.minimum(lower + (top - lower) * window, lower), lower)


def _reach(j: dict[str, Floats], hypertrophy: Floats) -> tuple[Floats, Floats]:
    wide = hypertrophy >= 2
    left = -j["proximal_top"] - np.where(wide, j["reach_proximal"], -0.1)
    return left, j["distal_top"] + np.where(wide, j["reach_distal"], -0.1)


def _window(j: dict[str, Floats], hypertrophy: Floats, x: Floats) -> Floats:
    left, right = _reach(j, hypertrophy)
    flank = np.where(hypertrophy >= 2, np.minimum(0.9 * j["scale"], 0.22 * (right - left)), 0.4 * j["scale"])
    return _smooth((x - left) / flank) * _smooth((right - x) / flank)


def _bone(j: dict[str, Floats], x: Floats) -> tuple[Floats, Floats]:
    """Depth of the bone below the joint line, and its part outside the two tops."""
    half = j["gap"] / 2
    before, behind = -x - j["proximal_top"], x - j["distal_top"]
    outside = j["neck"] * _smooth(before / 6.0) + j["shaft"] * _smooth(behind / 5.0)
    inner = np.where(
        x < 0,
        j["proximal_drop"] * (np.maximum(-before, 0) / (j["proximal_top"] - half)) ** j["roundness"],
        j["distal_drop"] * (np.maximum(-behind, 0) / (j["distal_top"] - half)) ** j["roundness"],
    )
    notch = j["notch"] * np.exp(-(((before - j["notch_at"]) / 0.45) ** 2) * 2)
    beside = np.abs(behind - j["second_gap"])
    dip = 0.7 * j["distal_drop"] * np.maximum(1 - beside / 1.2, 0) ** 2
    open_here = (np.abs(x) < half) | (beside < 0.3 * half)
    eroded = j["erosion"] * (
        np.exp(-(((before - j["erosion_proximal"]) / EROSION_RADIUS_MM) ** 2))
        + 0.7 * np.exp(-(((behind - j["erosion_distal"]) / EROSION_RADIUS_MM) ** 2))
    )
    return np.where(open_here, NO_BONE_MM, inner + outside + notch + dip + eroded), outside


def _cartilage(j: dict[str, Floats], x: Floats) -> Floats:
    """Thickness of the cartilage rim: the whole proximal head, the edge of the distal bone."""
    head = _smooth((x + j["proximal_top"] + 1.6) / 1.4)
    edge = 0.7 * _smooth((j["distal_top"] + 0.2 - x) / 1.0)
    return np.asarray(j["cartilage"] * np.where(x < 0, head, edge))


def _smooth(t: Floats) -> Floats:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)
