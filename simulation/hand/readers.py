"""Readers of the total: two people who each see it with a habit and noise; their mean is in half points.

Noise grows with the total: nobody finds 12 points too many where there are none. Smallest detectable changes between
two trained readers are 1.3-2.2 % of the maximum; any two readers differ more (Lassere et al.).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.hand.sites import WORST_TOTAL
from simulation.phantom.arrays import Floats

READERS = 2
BIAS = 0.06
"""Spread of a reader's habit, relative to the total."""
NOISE, NOISE_SHARE = 0.8, 0.55
"""Spread of one reading: points where there is no damage, and points per root of a point of damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A reader, and by which factor he scores higher than others."""

    name: str
    factor: float


def draw_readers(rng: np.random.Generator, *, prefix: str = "r") -> tuple[Reader, ...]:
    """The two readers of a site."""
    factors = np.exp(rng.normal(0, BIAS, READERS))
    return tuple(Reader(name=f"{prefix}{i + 1}", factor=float(f)) for i, f in enumerate(factors))


def read(
    rng: np.random.Generator, readers: tuple[Reader, ...], totals: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The totals 0-280 that each reader gives, ``(readers, pictures)``.

    Args:
        rng: of the readings.
        readers: of the site.
        totals: the true ones, ``(pictures,)``.
    """
    habit = np.array([reader.factor for reader in readers])[:, None] * totals
    spread = NOISE + NOISE_SHARE * np.sqrt(totals)
    seen = habit + spread * rng.standard_normal(habit.shape)
    return np.clip(np.round(seen), 0, WORST_TOTAL).astype(np.int64)


def consensus(totals: NDArray[np.int64]) -> Floats:
    """The mean of two readers, ``(pictures,)``: whole or half points."""
    return np.asarray(totals.mean(axis=0))
