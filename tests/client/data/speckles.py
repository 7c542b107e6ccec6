"""Fully developed speckle of any grain: filtered complex noise, its envelope, log-compressed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BRIGHTEST = 190
"""Real frames seldom show brighter tissue."""


def fine_speckle(
    seed: int, *, axial: float, lateral: float, range_db: float, side: int = 256
) -> NDArray[np.uint8]:
    """A grey picture ``(side, side, 3)``.

    Args:
        seed: of the noise.
        axial: standard deviation of the point spread function down, in pixels.
        lateral: across.
        range_db: dynamic range of the compression.
        side: of the picture.
    """
    rng = np.random.default_rng(seed)
    real, imaginary, tissue = rng.normal(size=(3, side, side))
    real, imaginary = (ndimage.gaussian_filter(part, (axial, lateral)) for part in (real, imaginary))
    slow = ndimage.gaussian_filter(tissue, 30)
    envelope = np.hypot(real, imaginary) * np.exp(0.5 * slow / slow.std())
    decibels = 20 * np.log10(envelope / np.percentile(envelope, 99.9) + 1e-9)
    grey = (np.clip((decibels + range_db) / range_db, 0, 1) * BRIGHTEST).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
