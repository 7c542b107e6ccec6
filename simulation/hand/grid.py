"""Pixels of one half of the detector, and where they lie in the hand on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from simulation.hand.anatomy import Posture, turned
from simulation.phantom.arrays import Singles
from simulation.phantom.random import stream

FIELD_MM = (320.0, 280.0)
"""Width and height of the detector, which both hands share."""
FINE_MM = 0.4
"""Bones are drawn on pixels of at most this size, four times as many as the picture's at 512."""
MOST_FINE = 3
GRAIN_PX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of a picture that is ``width_px`` wide, an even number."""

    width_px: int

    @property
    def height_px(self) -> int:
        """In the proportion of the detector."""
        return round(self.width_px * FIELD_MM[1] / FIELD_MM[0])

    @property
    def px_mm(self) -> float:
        """Side of a pixel."""
        return FIELD_MM[0] / self.width_px

    @property
    def fine(self) -> int:
        """Pixels along a side that bones are drawn on, for one of the picture."""
        return min(int(np.ceil(self.px_mm / FINE_MM)), MOST_FINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Some rows and columns of a half, and their places in the hand's frame in mm."""

    rows: slice
    columns: slice
    x: Singles
    y: Singles


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Pixels of a half of the detector, the thumb at higher columns; the first row is at the fingertips."""

    posture: Posture
    px_mm: float
    height: int
    width: int

    def patch(self, points: Sequence[tuple[float, float]], *, margin_mm: float) -> Patch | None:
        """The pixels about some points of the hand's frame; ``None`` where they are all outside."""
        turn, (px, py) = np.radians(self.posture.turn), self.posture.place_mm
        across, up = turned(self.posture, *np.array(points).T)
        left, right = self._cut(px + across.min() - margin_mm, px + across.max() + margin_mm, self.width)
        low, high = self._cut(py + up.min() - margin_mm, py + up.max() + margin_mm, self.height)
        if left >= right or low >= high:
            return None
        columns, rows = slice(left, right), slice(self.height - high, self.height - low)
        dx = ((np.arange(left, right) + 0.5) * self.px_mm - px).astype(np.float32)[None, :]
        dy = ((self.height - np.arange(rows.start, rows.stop) - 0.5) * self.px_mm - py).astype(np.float32)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        dy = dy[:, None]
        return Patch(rows=rows, columns=columns, x=dx * cos - dy * sin, y=dx * sin + dy * cos)

    def _cut(self, low_mm: float, high_mm: float, most: int) -> tuple[int, int]:
        return max(int(low_mm / self.px_mm), 0), min(int(high_mm / self.px_mm) + 1, most)

    def grain(self, rng: np.random.Generator) -> Singles:
        """Random structure of mean 0 and spread 1, finest of all trabeculae, for each pixel."""
        start = rng.integers(GRAIN_PX, size=2)
        rows, columns = (
            (np.arange(count) * self.px_mm / FINE_MM + first).astype(int) % GRAIN_PX
            for count, first in zip((self.height, self.width), start, strict=True)
        )
        return np.asarray(_grain()[np.ix_(rows, columns)])


@cache
def _grain() -> Singles:
    """Struts of a mm and their clusters, longer along the hand than across."""
    white = stream(0, "hand", "grain").standard_normal((2, GRAIN_PX, GRAIN_PX), dtype=np.float32)
    fine = gaussian_filter(white[0], (2.2, 0.9), mode="wrap")
    coarse = gaussian_filter(white[1], 6.0, mode="wrap")
    mixed = fine / fine.std() + 0.6 * coarse / coarse.std()
    return np.asarray(mixed / mixed.std(), np.float32)
