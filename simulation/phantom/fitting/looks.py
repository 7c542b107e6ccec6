"""The looks of machines: grey levels in the centre of a picture, and tone curves fitted to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares

from simulation.phantom.arrays import Bytes, Floats, Singles
from simulation.phantom.devices import TONE_DB

CROP = 0.5
"""The centre crop's share of each side of the region of interest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Grey levels, 0-255: mean, standard deviation, and the 5th, 50th and 95th percentile."""

    mean: float
    spread: float
    low: float
    median: float
    high: float


TABLE: Final = {
    "logiq-e9": Look(mean=88, spread=40, low=41, median=81, high=177),
    "logiq-e9-breast": Look(mean=94, spread=41, low=36, median=89, high=169),
    "echowave": Look(mean=54, spread=42, low=6, median=45, high=137),
    "artus": Look(mean=59, spread=34, low=20, median=52, high=126),
    "l12-5": Look(mean=37, spread=32, low=4, median=28, high=102),
}
"""Measured on public frames: GE LOGIQ E9 with two presets, Telemed EchoWave and ArtUs, Philips L12-5."""


def centre_crop(roi: Bytes) -> Bytes:
    """The middle half, on each side, of grey pictures ``(..., side, side)`` of the region of interest."""
    side = roi.shape[-1]
    cut = round(side * (1 - CROP) / 2)
    return roi[..., cut : side - cut, cut : side - cut]


def measure(rois: Bytes) -> Look:
    """Look of grey-scale pictures ``(..., side, side)`` of the region of interest, pooled over pictures."""
    values = centre_crop(rois).astype(np.float64)
    low, median, high = np.percentile(values, [5, 50, 95])
    return Look(
        mean=float(values.mean()),
        spread=float(values.std()),
        low=float(low),
        median=float(median),
        high=float(high),
    )


def fit_tone(levels_db: Floats | Singles, look: Look) -> tuple[float, ...]:
    """The tone curve that gives echo levels a look: a monotone map between the two distributions.

    Args:
        levels_db: echo levels of centre crops of many pictures of one device.
        look: what the grey levels shall be.

    Returns:
        Grey levels at ``TONE_DB``.
    """
    rank = np.searchsorted(np.sort(levels_db.ravel()), TONE_DB) / levels_db.size
    curve = np.asarray(_quantiles(look)(rank))
    step = TONE_DB[1] - TONE_DB[0]
    slope = np.minimum(np.diff(curve, prepend=curve[0]), 8.0 * step)
    # The brightest echoes are rare: a constant slope keeps the bone's detail and hardly moves the look.
    slope = np.where(rank > 0.96, np.maximum(slope, 4.0 * step), slope)
    return tuple(round(float(v), 1) for v in np.clip(curve[0] + np.cumsum(slope), 0, 255))


def _quantiles(look: Look) -> PchipInterpolator:
    """Grey level as a function of rank: the three percentiles exact, mean and spread as near as can be."""
    ranks = np.array([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])
    grid = (np.arange(2000) + 0.5) / 2000

    def curve(parts: Floats) -> PchipInterpolator:
        down, up, top = parts
        inner = look.low + down * (look.median - look.low), look.median + up * (look.high - look.median)
        levels = [0.4 * look.low, look.low, inner[0], look.median, inner[1], look.high, top]
        return PchipInterpolator(ranks, np.array(levels))

    def error(parts: Floats) -> Floats:
        values = curve(parts)(grid)
        return np.array([values.mean() - look.mean, values.std() - look.spread])

    bounds = ([0.2, 0.15, look.high + 15], [0.8, 0.7, 255.0])
    return curve(least_squares(error, [0.5, 0.35, (look.high + 255) / 2], bounds=bounds).x)
