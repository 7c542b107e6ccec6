"""Thickness of compact bone, spongy bone and soft tissue in mm at each pixel of a radiograph of both hands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from simulation.hand import carpus, long_bones, soft_tissue
from simulation.hand.anatomy import Hand
from simulation.hand.grid import Grid, Layout, Patch
from simulation.hand.long_bones import LongBone
from simulation.hand.skeleton import Pebble, Skeleton, lay_out
from simulation.phantom.arrays import Singles

CARPAL_MM, CARPAL_SHELL_MM, CARPAL_ROUND_MM = 14.0, 0.55, 4.6
"""Depth of a carpal bone, thickness of its shell, and how far from its border it has the full depth."""
GRAIN = 0.30
"""Spread of spongy bone's density about its mean."""
CYST_HOSTS = (("ray", 1, 0), ("ray", 2, 0), ("ray", 1, 1), ("carpus", 0, 0))
"""Bones that may have a cyst, away from the joint: heads of metacarpals and phalanx, the carpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """Thickness in mm, ``(height, width)`` each."""

    compact: Singles
    spongy: Singles
    soft: Singles

    def flipped(self) -> Self:
        """The mirror image."""
        return type(self)(compact=self.compact[:, ::-1], spongy=self.spongy[:, ::-1], soft=self.soft[:, ::-1])


def draw_tissue(hands: tuple[Hand, Hand], layout: Layout, grains: tuple[int, int]) -> Tissue:
    """Both hands side by side, thumbs inwards: the patient's left one on the left of the picture.

    Args:
        hands: the left and the right one.
        layout: sizes of the picture.
        grains: seeds of the structure of their spongy bone.
    """
    left, right = (_one(hand, layout, seed) for hand, seed in zip(hands, grains, strict=True))
    mirrored = right.flipped()
    compact, spongy, soft = (
        np.concatenate([getattr(left, name), getattr(mirrored, name)], axis=1)
        for name in ("compact", "spongy", "soft")
    )
    return Tissue(compact=compact, spongy=spongy, soft=soft)


def _one(hand: Hand, layout: Layout, seed: int) -> Tissue:
    height, width, fine = layout.height_px, layout.width_px // 2, layout.fine
    coarse = Grid(posture=hand.posture, px_mm=layout.px_mm, height=height, width=width)
    grid = Grid(posture=hand.posture, px_mm=layout.px_mm / fine, height=height * fine, width=width * fine)
    skeleton = lay_out(hand)
    compact, spongy = np.zeros((2, grid.height, grid.width), np.float32)
    for bone in skeleton.bones:
        _add_bone(bone, grid, compact, spongy)
    _put_carpus(hand, skeleton, grid, compact, spongy)
    for pebble in _all_pebbles(hand, skeleton):
        _add_pebble(pebble, grid, compact)
    _hollow(hand, skeleton, grid, compact, spongy)
    rng = np.random.default_rng(seed)
    spongy *= np.maximum(np.float32(hand.build.density) * (1 + np.float32(GRAIN) * grid.grain(rng)), 0)
    return Tissue(
        compact=_binned(compact, fine),
        spongy=_binned(spongy, fine),
        soft=soft_tissue.thickness(hand, skeleton, coarse),
    )


def _add_bone(bone: LongBone, grid: Grid, compact: Singles, spongy: Singles) -> None:
    patch = grid.patch(
        [bone.at(0), bone.at(bone.length_mm)],
        margin_mm=max(bone.base.half_mm, bone.head.half_mm) * 1.15,
    )
    if patch is not None:
        shell, core = long_bones.thickness(bone, long_bones.depths(bone, *bone.frame(patch.x, patch.y)))
        compact[patch.rows, patch.columns] += shell
        spongy[patch.rows, patch.columns] += core


def _put_carpus(hand: Hand, skeleton: Skeleton, grid: Grid, compact: Singles, spongy: Singles) -> None:
    """Carpal bones overlap others only where they are fused to them: the thicker one counts."""
    scale = hand.build.scale
    corners = [(x * scale, y * scale) for x in (-29.0, 34.0) for y in (-5.0, 41.0)]
    patch = grid.patch(corners, margin_mm=0.0)
    if patch is None:
        return
    depth = carpus.inside(hand, skeleton, patch, px_mm=grid.px_mm)
    outer = _dome(depth, CARPAL_MM)
    inner = np.minimum(_dome(depth - np.float32(CARPAL_SHELL_MM), CARPAL_MM - 1.2), outer)
    there = compact[patch.rows, patch.columns], spongy[patch.rows, patch.columns]
    deeper = outer > there[0] + there[1]
    there[0][deeper], there[1][deeper] = (outer - inner)[deeper], inner[deeper]


def _dome(depth: Singles, thick_mm: float) -> Singles:
    off = 1 - np.clip(depth / np.float32(CARPAL_ROUND_MM), 0, 1)
    return np.asarray(np.float32(thick_mm) * np.sqrt(1 - off * off))


def _all_pebbles(hand: Hand, skeleton: Skeleton) -> tuple[Pebble, ...]:
    (x, y, radius), scale = carpus.PISIFORM, hand.build.scale
    dx, dy = hand.build.carpals[-1]
    at = (x * scale + float(dx), y * scale + float(dy))
    return (*skeleton.pebbles, Pebble(at=at, radius_mm=radius * scale, thick_mm=3.0))


def _add_pebble(pebble: Pebble, grid: Grid, compact: Singles) -> None:
    patch = grid.patch([pebble.at], margin_mm=pebble.radius_mm)
    if patch is not None:
        square = _square(patch, pebble.at) / np.float32(pebble.radius_mm**2)
        compact[patch.rows, patch.columns] += np.float32(pebble.thick_mm) * np.sqrt(np.maximum(1 - square, 0))


def _hollow(hand: Hand, skeleton: Skeleton, grid: Grid, compact: Singles, spongy: Singles) -> None:
    """Cysts: most of the spongy bone is missing in a circle, with a fine rim about it."""
    for (x, y), radius, host in zip(hand.decoys.cyst_at, hand.decoys.cyst_mm, CYST_HOSTS, strict=True):
        if radius <= 0:
            continue
        patch = grid.patch([_cyst_at(hand, skeleton, host, x, y)], margin_mm=radius + 1.0)
        if patch is None:
            continue
        off = np.sqrt(_square(patch, _cyst_at(hand, skeleton, host, x, y))) - np.float32(radius)
        spongy[patch.rows, patch.columns] *= 0.25 + 0.75 * np.clip(off / np.float32(0.5) + 0.5, 0, 1)
        compact[patch.rows, patch.columns] *= 1 + 0.25 * np.exp(-((off / np.float32(0.5)) ** 2))


def _cyst_at(
    hand: Hand, skeleton: Skeleton, host: tuple[str, int, int], x: float, y: float
) -> tuple[float, float]:
    kind, ray, place = host
    if kind == "carpus":
        scale = hand.build.scale
        return (2.2 + 3 * (x - 0.5)) * scale, (20.0 + 8 * y) * scale
    bone = skeleton.rays[ray][place]
    return bone.at(bone.length_mm - (5.0 + 4.0 * y) * hand.build.scale, (x - 0.5) * bone.head.half_mm)


def _square(patch: Patch, at: tuple[float, float]) -> Singles:
    return np.asarray((patch.x - np.float32(at[0])) ** 2 + (patch.y - np.float32(at[1])) ** 2)


def _binned(values: Singles, fine: int) -> Singles:
    if fine == 1:
        return values
    height, width = values.shape[0] // fine, values.shape[1] // fine
    return np.asarray(values.reshape(height, fine, width, fine).mean(axis=(1, 3)))
