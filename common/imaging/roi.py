"""The region of interest (ROI) and the margin that is stored around it."""

from __future__ import annotations

MARGIN = 0.15
"""Stored margin on each side, as a fraction of the ROI's side: a shift of 0.10 at a scale of 1.1 fits."""


def stored_px(image_px: int) -> int:
    """Side in pixels of a stored image whose ROI is ``image_px`` wide; even excess, so it is centred."""
    margin = -(-int(image_px * MARGIN * 100) // 100)
    return image_px + 2 * max(margin, 1)
