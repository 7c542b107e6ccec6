"""The mask of the Doppler signal, so that all machines' colour maps look alike."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8


def brightness(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """The largest of a pixel's three channels, V of HSV; 20 x faster than ``max(axis=2)`` over so short an axis."""
    return np.asarray(np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2]))


def flow_mask(rgb: UInt8[np.ndarray, "h w 3"], *, saturation: float) -> UInt8[np.ndarray, "h w"]:
    """Pixels whose HSV saturation exceeds a threshold (RATING's released code: 0.40).

    Saturation is (max - min) / max of the three channels, 0 for black. The rule is plain, as RATING has it:
    a nearly black pixel with a tint counts as well, and grey-scale pictures have no flow.

    Args:
        rgb: a picture.
        saturation: the threshold, 0 .. 1.

    Returns:
        255 where there is flow, else 0.
    """
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    highest = brightness(rgb)
    lowest = np.minimum(np.minimum(red, green), blue)
    limit = np.floor(saturation * np.arange(256)).astype(np.uint8)
    return np.where(highest - lowest > limit[highest], np.uint8(255), np.uint8(0))
