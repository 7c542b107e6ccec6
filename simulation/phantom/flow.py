"""Blood flow inside the synovium; its area is the vascularity grade by the strict rule.

Grade 1: up to three single spots, or two confluent ones, or one confluent and up to two single; grade 2: less
than half of the synovial area; grade 3: more than half. Shares of 47-53 % are never drawn.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter

from simulation.phantom.arrays import Floats, Mask, Singles

SINGLE_MM2, CONFLUENT_MM2 = 0.11, 0.24
"""Largest area of a single and of a confluent spot."""
LARGEST_GRADE_1_MM2 = 2 * CONFLUENT_MM2
UNDEFINED = (0.47, 0.53)
SPOTS = ((1, 0), (2, 0), (0, 1), (3, 0), (1, 1), (2, 1), (0, 2))
"""(single, confluent) spots of grade 1, from least to most."""
PULSATILITY = 0.35
FRAMES = (1, 4)
"""From how many frames, at least and at most, an operator keeps the best as a still."""
OUTSIDE_SHARE = 0.10
"""Share of joints with flow outside the synovium: it never counts for the grade."""
FEEDING_SHARE = 0.6
"""Share of these in which it is a vessel over the joint; in the others it is clutter at the bone."""


def draw_speed(rng: np.random.Generator, synovium: Mask, *, vascularity: float, mm_per_px: float) -> Singles:
    """Speed of the flow in each pixel at systole, 0 where there is none.

    Args:
        rng: of the exam.
        synovium: mask ``(depth, width)`` of one section.
        vascularity: severity in [0, 4).
        mm_per_px: pixel spacing.

    Returns:
        Relative speeds; inside the flow from 0.2 to about 1.
    """
    speed = np.zeros(synovium.shape, np.float32)
    if vascularity < 1 or not synovium.any():
        return speed
    rows, columns = np.flatnonzero(synovium.any(1)), np.flatnonzero(synovium.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside = synovium[box]
    if vascularity < 2:
        speed[box] = _spots(rng, inside, part=vascularity - 1, mm_per_px=mm_per_px)
    else:
        speed[box] = _areas(rng, inside, vascularity=vascularity, mm_per_px=mm_per_px)
    return speed


def at_phase(speed: Singles, phase: float, *, pulsatility: float = PULSATILITY) -> Singles:
    """Speeds at a phase of the cardiac cycle, in [0, 1); 0 is systole, 0.5 leaves ``1 - 2 * pulsatility`` of it."""
    return np.asarray(speed * np.float32(1 - pulsatility * (1 - np.cos(2 * np.pi * phase))))


def still_phases(rng: np.random.Generator, *, joints: int) -> Floats:
    """Phase of the still of each joint: of a few frames at random phases, the one nearest to systole."""
    frames = rng.random((joints, FRAMES[1]))
    late = np.minimum(frames, 1 - frames)
    late[np.arange(FRAMES[1]) >= rng.integers(FRAMES[0], FRAMES[1] + 1, joints)[:, None]] = 0.5
    return np.asarray(late.min(axis=1))


def draw_outside(
    rng: np.random.Generator,
    upper_mm: Floats,
    lower_mm: Floats,
    *,
    depth: int,
    centre_px: float,
    mm_per_px: float,
) -> Singles:
    """Speed of flow that does not belong to the synovium: a vessel that feeds the joint, or clutter at the bone.

    Args:
        rng: of the exam.
        upper_mm: the synovium's upper contour at each column.
        lower_mm: its lower one, over cartilage and bone.
        depth: rows of the scan.
        centre_px: column of the joint's gap.
        mm_per_px: pixel spacing.

    Returns:
        Relative speeds ``(depth, width)``, 0 where there is none; the caller drops what lies in the synovium.
    """
    there, feeds = rng.random() < OUTSIDE_SHARE, rng.random() < FEEDING_SHARE
    at, height, length, radius, fastest, bend = rng.random(6)
    if not there:
        return np.zeros((depth, len(upper_mm)), np.float32)
    x = (np.arange(len(upper_mm)) - centre_px) * mm_per_px - (8 * at - 4)
    half, thick = (
        (0.5 + 1.3 * length, 0.14 + 0.16 * radius) if feeds else (0.15 + 0.5 * length, 0.12 + 0.12 * radius)
    )
    middle = upper_mm - (0.25 + 1.5 * height) + 0.25 * (bend - 0.5) * x if feeds else lower_mm + 0.35 * height
    along = np.maximum(np.abs(x) - half, 0)
    across = np.arange(depth)[:, None] * mm_per_px - middle
    distance = np.hypot(along[None, :], across) / thick
    speed = (0.45 if feeds else 0.35) + 0.5 * fastest
    return np.where(distance <= 1, speed * (1 - 0.5 * distance**2), 0).astype(np.float32)


def draw_flash(rng: np.random.Generator, shape: tuple[int, int], *, mm_per_px: float) -> Singles:
    """Speeds of a flash: tissue that moves, over much of the picture, for a frame or two."""
    grain = rng.uniform(0.7, 1.3) / mm_per_px
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), grain, mode="reflect")
    over = field / field.std() - rng.uniform(0.2, 0.8)
    return np.where(over > 0, np.minimum(0.55 + 0.3 * over, 1), 0).astype(np.float32)


def draw_peritendinous(
    middle_mm: Floats, *, amount: float, place: float, depth: int, centre_px: float, mm_per_px: float
) -> Singles:
    """Speed of flow along the extensor tendon, outside the capsule: it never counts for the grade.

    Args:
        middle_mm: of the paratenon at each column.
        amount: how much there is, 0-3; 0 is none.
        place: along the joint, in [0, 1).
        depth: rows of the scan.
        centre_px: column of the joint's gap.
        mm_per_px: pixel spacing.

    Returns:
        Relative speeds ``(depth, width)``, 0 where there is none.
    """
    if amount <= 0:
        return np.zeros((depth, len(middle_mm)), np.float32)
    x = (np.arange(len(middle_mm)) - centre_px) * mm_per_px - (6 * place - 3)
    along = x / (0.4 + 0.55 * amount)
    across = (np.arange(depth)[:, None] * mm_per_px - middle_mm) / (0.13 + 0.06 * amount)
    distance = np.hypot(along[None, :], across)
    return np.where(distance <= 1, (0.5 + 0.13 * amount) * (1 - 0.5 * distance**2), 0).astype(np.float32)


def share(vascularity: float, *, area_mm2: float) -> float:
    """Share of the synovial area that flows, for a severity of 2 or more.

    A grade 2 covers at least what spots of grade 1 cannot.
    """
    part = vascularity % 1.0
    if vascularity >= 3:
        return UNDEFINED[1] + 0.01 + 0.30 * part
    least = min(max(0.12, 1.06 * LARGEST_GRADE_1_MM2 / area_mm2), UNDEFINED[0] - 0.03)
    return least + (UNDEFINED[0] - 0.01 - least) * part


def _areas(rng: np.random.Generator, inside: Mask, *, vascularity: float, mm_per_px: float) -> Singles:
    area = int(inside.sum())
    wanted = round(share(vascularity, area_mm2=area * mm_per_px**2) * area)
    grain = rng.uniform(0.22, 0.34) / mm_per_px
    field = gaussian_filter(rng.standard_normal(inside.shape, dtype=np.float32), grain, mode="reflect")
    field = field / field.std() + 1.2 * _depth_inside(inside, 0.35 / mm_per_px)
    limit = np.sort(field[inside])[-wanted]
    flows = inside & (field >= limit)
    over = (field - limit) / (field[flows].max() - limit + 1e-6)
    return np.where(flows, 0.45 + 0.55 * np.sqrt(np.maximum(over, 0)), 0).astype(np.float32)


def _depth_inside(inside: Mask, sigma_px: float) -> Singles:
    return np.asarray(gaussian_filter(inside.astype(np.float32), sigma_px, mode="constant"))


def _spots(rng: np.random.Generator, inside: Mask, *, part: float, mm_per_px: float) -> Singles:
    single, confluent = SPOTS[min(int(part * len(SPOTS)), len(SPOTS) - 1)]
    core = binary_erosion(inside, iterations=max(round(0.13 / mm_per_px), 1))
    places = np.argwhere(core if core.any() else inside).astype(np.float64)
    rows, columns = np.indices(inside.shape)
    speed = np.zeros(inside.shape)
    for long in [True] * confluent + [False] * single:
        if not len(places):
            break
        centre = places[rng.integers(len(places))]
        spot = _spot(rng, rows - centre[0], columns - centre[1], mm_per_px, confluent=long)
        speed = np.maximum(speed, np.where(inside, spot, 0))
        # Spots that touch would count as one: keep the next one clear of this one.
        places = places[np.hypot(*(places - centre).T) * mm_per_px > (1.25 if long else 0.8)]
    return speed.astype(np.float32)


def _spot(
    rng: np.random.Generator, rows: Floats, columns: Floats, mm_per_px: float, *, confluent: bool
) -> Floats:
    radius = rng.uniform(0.13, 0.165)
    half = rng.uniform(0.11, 0.18) if confluent else 0.0
    along = np.maximum(np.abs(columns) * mm_per_px - half, 0)
    distance = np.hypot(along, rows * mm_per_px) / radius
    return np.where(distance <= 1, rng.uniform(0.4, 1.0) * (1 - 0.5 * distance**2), 0.0)
