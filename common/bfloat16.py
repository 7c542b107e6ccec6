"""bfloat16, which numpy has not: the upper half of a float32."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt16


def encode(values: Float32[np.ndarray, " parameters"]) -> UInt16[np.ndarray, " parameters"]:
    """Round to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2")


def decode(bits: UInt16[np.ndarray, " parameters"]) -> Float32[np.ndarray, " parameters"]:
    """The float32 values that the bits stand for, exactly."""
    return (bits.astype("<u4") << 16).view("<f4")
