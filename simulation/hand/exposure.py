"""From thickness to a picture: Beer-Lambert's law, scatter, quantum noise, processing, tilted collimation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from simulation.hand.grid import FIELD_MM, Layout
from simulation.hand.machines import Machine
from simulation.hand.tissue import Tissue
from simulation.phantom.arrays import Bytes, Singles

TILT = 5.0
"""Most degrees by which the collimation is tilted."""
BORDER_MM = (2.0, 10.0)
SOFT_EDGE_MM = 0.8
SCATTER_PX = 8
"""Pixels along a side that scatter, which is broad, is computed on together."""
SHARPEN_MM = 0.9
GAIN = 0.12
"""Spread of the logarithm of the dose between exposures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What differs between two pictures of one machine.

    Attributes:
        tilt: of the collimation in degrees.
        border_mm: of the detector that the collimation leaves out, left, right, above and below, ``(4,)``.
        dose: relative to the usual.
        grey_shift: of the attenuation that processing takes for none: pictures are a little lighter or darker.
        noise: seed.
    """

    tilt: float
    border_mm: tuple[float, float, float, float]
    dose: float
    grey_shift: float
    noise: int


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """How one picture is taken."""
    tilt = float(np.clip(rng.normal(0, 1.6), -TILT, TILT))
    left, right, above, below = (float(value) for value in rng.uniform(*BORDER_MM, 4))
    return Exposure(
        tilt=tilt,
        border_mm=(left, right, above, below),
        dose=float(np.exp(rng.normal(0, GAIN))),
        grey_shift=float(rng.normal(0, 0.03)),
        noise=int(rng.integers(2**32)),
    )


def intensity(tissue: Tissue, machine: Machine, *, px_mm: float) -> Singles:
    """What reaches the detector, relative to what reaches it behind nothing; Beer-Lambert with scatter added."""
    attenuation = (
        np.float32(machine.bone_per_mm) * tissue.compact
        + np.float32(machine.spongy_per_mm) * tissue.spongy
        + np.float32(machine.soft_per_mm) * tissue.soft
    )
    primary = np.exp(-attenuation)
    share = np.float32(machine.scatter)
    return np.asarray((primary + share * _broad(primary, machine.scatter_mm / px_mm)) / (1 + share))


def expose(tissue: Tissue, machine: Machine, exposure: Exposure, layout: Layout) -> Bytes:
    """A picture ``(height, width)``, without marker and text.

    Args:
        tissue: of both hands.
        machine: whose look the picture has.
        exposure: how it is taken.
        layout: sizes.
    """
    px_mm = layout.px_mm
    arrived = intensity(tissue, machine, px_mm=px_mm)
    blurred = gaussian_filter(arrived, machine.blur_mm / px_mm, truncate=3)
    rows = np.linspace(-1, 1, layout.height_px, dtype=np.float32)[:, None]
    heel = 1 - np.float32(machine.heel) * (0.5 * rows + 0.5 * rows * rows)
    photons = np.float32(machine.photons * exposure.dose * px_mm**2)
    noise = np.random.default_rng(exposure.noise).standard_normal(arrived.shape, dtype=np.float32)
    # of many photons: Poisson's spread, with a bell's shape
    seen = blurred * heel + np.sqrt(blurred * heel / photons) * noise
    attenuation = -np.log(np.maximum(seen, np.float32(1e-3)))
    if machine.sharpen:
        smooth = gaussian_filter(attenuation, SHARPEN_MM / px_mm, truncate=2)
        attenuation = attenuation + np.float32(machine.sharpen) * (attenuation - smooth)
    grey = machine.grey(attenuation + np.float32(exposure.grey_shift))
    open_here = collimation(exposure, layout)
    return np.asarray((grey * open_here + np.float32(machine.dark) * (1 - open_here)).astype(np.uint8))


def collimation(exposure: Exposure, layout: Layout) -> Singles:
    """Which share of each pixel the beam reaches, ``(height, width)``: a tilted rectangle."""
    turn = np.radians(exposure.tilt)
    x = ((np.arange(layout.width_px) + 0.5) * layout.px_mm - FIELD_MM[0] / 2).astype(np.float32)[None, :]
    y = ((np.arange(layout.height_px) + 0.5) * layout.px_mm - FIELD_MM[1] / 2).astype(np.float32)[:, None]
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    across, down = x * cos + y * sin, y * cos - x * sin
    left, right, above, below = (np.float32(value) for value in exposure.border_mm)
    half_width, half_height = np.float32(FIELD_MM[0] / 2), np.float32(FIELD_MM[1] / 2)
    depth = np.minimum(
        np.minimum(across + half_width - left, half_width - right - across),
        np.minimum(down + half_height - above, half_height - below - down),
    )
    return np.asarray(np.clip(depth / np.float32(SOFT_EDGE_MM) + 0.5, 0, 1))


def _broad(values: Singles, spread_px: float) -> Singles:
    """A broad blur, computed on a coarse grid."""
    height, width = values.shape
    step = max(min(SCATTER_PX, int(spread_px / 2)), 1)
    padded = np.pad(values, ((0, -height % step), (0, -width % step)), mode="edge")
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    coarse = padded.reshape(rows, step, columns, step).mean(axis=(1, 3))
    blurred = gaussian_filter(coarse, spread_px / step, mode="nearest", truncate=3)
    return np.asarray(zoom(blurred, step, order=1, grid_mode=True, mode="nearest")[:height, :width])
