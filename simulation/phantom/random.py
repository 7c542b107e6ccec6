"""Named random streams: the same seed and names give the same numbers in every process."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for a named part of the phantom.

    Args:
        seed: the cohort's seed, >= 0.
        names: what the numbers are for, for example ``("site-a", "patient", 3)``.
    """
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    words = tuple(int(word) for word in np.frombuffer(digest, dtype="<u4"))
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=words)))
