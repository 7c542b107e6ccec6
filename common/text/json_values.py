"""JSON has no NaN and no infinity: null stands for them."""

from __future__ import annotations

import math
from collections.abc import Mapping


def number(value: float) -> float | None:
    """A number, ``None`` if it is not finite."""
    return float(value) if math.isfinite(value) else None


def finite(value: object) -> object:
    """Plain values, however nested, with ``None`` for each number that is not finite, and lists for tuples."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
