"""An aggregation rule of one's own: the geometric median (Pillutla et al. 2022), by Weiszfeld's steps.

    federation.rule = "geometric_median:geometric_median"

It runs at the centre only. Each update is one point; the result is the point with the least sum of distances to all
of them, so a minority of sites cannot move it far. An update comes by chunks, since a whole one may not fit into
memory for every site at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.aggregation.mean import Weighted

CHUNK = 1 << 16
STEPS = 20
SMALLEST = 1e-12
"""Distances are taken to be at least so large: a step divides by them."""


def geometric_median(updates: Sequence[Weighted], *, size: int) -> np.ndarray:
    """The geometric median of the updates of all sites that trained, one site, one vote."""
    trained = [update for update in updates if update.num_examples > 0]
    result = np.zeros(size, dtype=np.float32)
    if not trained:
        return result
    shares = np.full(len(trained), 1 / len(trained))
    for _ in range(STEPS):
        result = _weighted(trained, shares, size)
        distances = np.maximum(_distances(trained, result), SMALLEST)
        shares = 1 / distances / np.sum(1 / distances)
    return result


def _weighted(updates: Sequence[Weighted], shares: np.ndarray, size: int) -> np.ndarray:
    mean = np.empty(size, dtype=np.float32)
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        rows = np.stack([update.source.read(start, stop) for update in updates]).astype(np.float64)
        mean[start:stop] = shares @ rows
    return mean


def _distances(updates: Sequence[Weighted], centre: np.ndarray) -> np.ndarray:
    total = np.zeros(len(updates))
    for start in range(0, len(centre), CHUNK):
        stop = min(start + CHUNK, len(centre))
        for i, update in enumerate(updates):
            away = update.source.read(start, stop).astype(np.float64) - centre[start:stop]
            total[i] += away @ away
    return np.sqrt(total)
