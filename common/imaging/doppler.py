"""The mask of the Doppler signal, so that all machines' colour maps look alike."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8


def flow_mask(rgb: UInt8[np.ndarray, "h w 3"], *, saturation: float) -> UInt8[np.ndarray, "h w"]:
    """Pixels whose HSV saturation exceeds a threshold (RATING's released code: 0.40).

    Saturation is (max - min) / max of the three channels, 0 for black.

    Args:
        rgb: a picture.
        saturation: the threshold, 0 .. 1.

    Returns:
        255 where there is flow, else 0.
    """
    highest = rgb.max(axis=2).astype(np.float32)
    lowest = rgb.min(axis=2)
    return np.where(highest - lowest > saturation * highest, np.uint8(255), np.uint8(0))
