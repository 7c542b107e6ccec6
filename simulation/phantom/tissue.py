"""What each tissue sends back: a map of echo levels, scan line by scan line.

Arrays are ``(n, lines, depth)``: the depth runs fastest, as in a scanner's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from scipy.fft import irfft2, rfft2

from simulation.phantom.anatomy import Contours, Joints
from simulation.phantom.arrays import Floats, Singles
from simulation.phantom.random import stream

TISSUES: Final = (
    # name, level in dB, strength of texture, share of coherent (specular) echo
    ("gel", -52.0, 0.2, 0.0),
    ("skin line", 0.0, 0.3, 0.7),
    ("dermis", -7.0, 0.5, 0.1),
    ("subcutis", -21.0, 1.3, 0.0),
    ("paratenon", -3.0, 0.6, 0.6),
    ("tendon", -9.0, 1.0, 0.25),
    ("loose tissue", -13.0, 0.8, 0.1),
    ("capsule", -2.0, 0.5, 0.6),
    ("fat pad", -11.0, 0.7, 0.0),
    ("effusion", 0.0, 0.1, 0.0),
    ("synovium", 0.0, 0.5, 0.0),
    ("cartilage", -48.0, 0.2, 0.0),
    ("bone", 0.0, 0.0, 0.8),
)
PARATENON, TENDON, FAT_PAD, EFFUSION, SYNOVIUM, BONE = 4, 5, 8, 9, 10, 12
BONE_DB, BONE_DECAY_MM, SHADOW_DB = 9.0, 0.16, -44.0
GAP_DB = -34.0
"""Between the bones, below the recess."""
ANISOTROPY_DB, ANISOTROPY_SLOPE = 14.0, 0.22
"""How much darker a tendon gets that the beam does not meet at a right angle, and about where."""
TILE_LINES, TILE_DEPTH = 512, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Echoes:
    """Amplitude of the scatterers and of the coherent echo, ``(n, lines, depth)``, 1 = 0 dB."""

    diffuse: Singles
    coherent: Singles


def paint(
    rng: np.random.Generator, joints: Joints, borders: Contours, *, depth: int, mm_per_px: float, texture: int
) -> Echoes:
    """Echo amplitudes of each section.

    Args:
        rng: for irregularities along the scan lines.
        joints: for the echo levels of synovium and effusion.
        borders: at the scan lines' positions.
        depth: samples along a scan line.
        mm_per_px: spacing of the samples.
        texture: which piece of the texture is used; the same number for pictures of the same section.
    """
    n, lines = borders.skin.shape
    labels = _labels(borders, joints.paratenon, depth=depth, mm_per_px=mm_per_px)
    table = np.tile(np.array([level for _, level, _, _ in TISSUES], np.float32), (n, lines, 1))
    table[..., EFFUSION], table[..., SYNOVIUM] = joints.effusion_db[:, None], joints.synovium_db[:, None]
    table[..., PARATENON] = joints.paratenon_db[:, None]
    table[..., TENDON] -= _anisotropy_db(borders, mm_per_px=mm_per_px)
    offsets = (np.arange(n * lines, dtype=np.int32) * len(TISSUES)).reshape(n, lines, 1)
    level = table.ravel()[labels + offsets]
    level += _texture(borders, labels, texture, mm_per_px=mm_per_px)
    level += _along(rng, (n, lines), length=6, spread=1.2)[..., None]
    _add_bone(rng, level, labels, borders, mm_per_px=mm_per_px)
    amplitude = np.exp(level * np.float32(np.log(10) / 20))
    share = np.array([share for _, _, _, share in TISSUES], np.float32)[labels]
    return Echoes(diffuse=amplitude * (1 - share), coherent=amplitude * share)


def _anisotropy_db(borders: Contours, *, mm_per_px: float) -> Singles:
    slope = np.gradient(borders.tendon_bottom, axis=-1) / (2 * mm_per_px)
    return np.asarray(ANISOTROPY_DB * (1 - np.exp(-((slope / ANISOTROPY_SLOPE) ** 2))), np.float32)


def _labels(
    borders: Contours, paratenon_mm: Floats, *, depth: int, mm_per_px: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    n, lines = borders.skin.shape
    b = borders
    thin = max(0.14, 1.2 * mm_per_px)
    sheath = np.maximum(paratenon_mm, 1.2 * mm_per_px)[:, None]
    edges = np.stack(
        [
            b.skin, b.skin + thin, b.dermis, b.tendon_top, b.tendon_top + sheath, b.tendon_bottom,
            b.capsule - thin, b.capsule, b.effusion, b.synovium, b.cartilage, b.bone,
        ],
        axis=-1,
    )  # fmt: skip
    edges = np.maximum.accumulate(np.clip(edges / mm_per_px, 0, depth).round().astype(np.int32), axis=-1)
    full = np.concatenate(
        [np.zeros((n, lines, 1), np.int32), edges, np.full((n, lines, 1), depth, np.int32)], axis=-1
    )
    counts = np.diff(full, axis=-1)
    names = np.broadcast_to(np.arange(len(TISSUES), dtype=np.int32), counts.shape)
    return np.repeat(names.ravel(), counts.ravel()).reshape(n, lines, depth)


def _add_bone(
    rng: np.random.Generator,
    level: Singles,
    labels: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
    borders: Contours,
    *,
    mm_per_px: float,
) -> None:
    """Bright cortex, shadow with faint reverberation below it; the open gap between the bones (in place)."""
    n, lines, depth = level.shape
    z = (np.arange(depth, dtype=np.float32) * np.float32(mm_per_px))[None, None, :]
    bone = borders.bone.astype(np.float32)
    slope = np.gradient(np.minimum(bone, 20.0), axis=-1) / (2 * mm_per_px)
    bright = BONE_DB - 7.0 * np.minimum(np.abs(slope), 1.5) + _along(rng, (n, lines), length=5, spread=1.5)
    below = z - bone[..., None]
    cortex = bright[..., None] - below * np.float32(20 / BONE_DECAY_MM / np.log(10))
    echo = np.float32(SHADOW_DB) + np.float32(7.0) * np.exp(-np.maximum(below, 0) / np.float32(1.5))
    is_bone = labels == BONE
    np.copyto(level, np.maximum(cortex, echo), where=is_bone)
    in_gap = (bone > 30.0)[..., None]
    deep = z - borders.cartilage.astype(np.float32)[..., None]
    np.copyto(level, np.float32(GAP_DB) - deep * np.float32(3.5), where=in_gap & (deep > 0))


def _texture(
    borders: Contours,
    labels: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
    texture: int,
    *,
    mm_per_px: float,
) -> Singles:
    """Fibres along the tendon and lobules elsewhere, following the tendon's curve."""
    n, lines, depth = labels.shape
    rng = stream(texture, "texture")
    line = (rng.integers(TILE_LINES, size=(n, 1)) + np.arange(lines)) % TILE_LINES
    start = (-borders.tendon_bottom / mm_per_px).astype(np.int64) + rng.integers(TILE_DEPTH, size=(n, 1))
    first = (line * 2 * TILE_DEPTH + start % TILE_DEPTH).astype(np.int32)
    index = first[..., None] + np.arange(depth, dtype=np.int32)
    fibres, lobules = _tiles(round(mm_per_px, 4))
    strength = np.array([strength for _, _, strength, _ in TISSUES], np.float32)[labels]
    return np.asarray(strength * np.where(labels == TENDON, fibres[index], lobules[index]), np.float32)


@cache
def _tiles(mm_per_px: float) -> tuple[Singles, Singles]:
    """Fixed textures in dB, each doubled along the depth so that no index wraps; flat, lines first."""
    rng = stream(0, "tiles")
    line_mm = 2 * mm_per_px
    fibres = 5.5 * _smooth_noise(rng, 4.5 / line_mm, 0.06 / mm_per_px)
    lobules = 3.0 * _smooth_noise(rng, 0.45 / line_mm, 0.16 / mm_per_px)
    septa = 7.0 * np.exp(-((_smooth_noise(rng, 1.6 / line_mm, 0.22 / mm_per_px) / 0.12) ** 2))
    return _flat(fibres), _flat(lobules + septa - 1.5)


def _flat(tile: Singles) -> Singles:
    return np.concatenate([tile, tile], axis=1).ravel().astype(np.float32)


def _smooth_noise(rng: np.random.Generator, lines: float, depth: float) -> Singles:
    """Periodic Gaussian noise of unit spread, smoothed with these standard deviations (in samples)."""
    across, along = np.fft.fftfreq(TILE_LINES)[:, None], np.fft.rfftfreq(TILE_DEPTH)[None, :]
    window = np.exp(-2 * np.pi**2 * ((across * lines) ** 2 + (along * depth) ** 2))
    tile = irfft2(rfft2(rng.standard_normal((TILE_LINES, TILE_DEPTH))) * window, s=(TILE_LINES, TILE_DEPTH))
    return np.asarray(tile / tile.std(), np.float32)


def _along(rng: np.random.Generator, shape: tuple[int, int], *, length: int, spread: float) -> Singles:
    """Smooth noise along the scan lines, in dB."""
    kernel = np.hanning(2 * length + 3)[1:-1]
    white = rng.standard_normal((shape[0], shape[1] + len(kernel) - 1))
    smooth = np.stack([np.convolve(row, kernel, mode="valid") for row in white])
    return np.asarray(smooth * (spread / np.sqrt((kernel**2).sum())), np.float32)
