"""What tells letters from bones, whose edges are as sharp: ink is of one brightness, and ends where the letters end.

Along the borders of bones there is bone: a few strokes that look like a line of text have as much brightness around
them as in them, and most of the pixels between them are neither light nor dark. Figures: 1023 lines of text of 6-24
pixels on phantom radiographs and screens, on speckle, over bones, some in JPEG of quality 40 or made smaller, and
369 groups of strokes that were bones or grain: of these 22 pass, of the lines 9 fail, all of them compressed or made
smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int16
from scipy import ndimage

from client.data.pictures.box import Box

MANY = 8
"""Strokes side by side that nothing but text has."""
RING_PX = 2
RING_SHARE = 0.15
"""Share of the pixels around a line, from which it is no line: more than halfway from its ground to its ink."""
BETWEEN = 3.0
"""Pixels halfway between ground and ink, for each that is ink: thin letters are smooth, bones are more so."""

LEAD, DARKEST = 0.6, 120
"""Share of the brightest pixel of a picture, and grey level, from where a pixel may be a side marker's."""
MARK_PX, SLIM = (6, 40), (0.25, 1.2)
"""Height of a marker's letter, and its width relative to that."""
OUTSHINES, DIMMER = 80, 0.6
"""Grey levels by which a letter is brighter than the brightest around it, and how bright that may be beside it."""
MARK_BETWEEN, MARK_FILL = 5.0, (0.2, 0.65)
"""As ``BETWEEN``, of letters of seven pixels' height; share of its box that a letter fills."""


def is_written(light: Int16[np.ndarray, "h w"], line: Box, strokes: Sequence[Box]) -> bool:
    """Whether strokes side by side are letters.

    Args:
        light: brightness, of dark text its opposite.
        line: the box around them.
        strokes: upright ones.
    """
    if len(strokes) >= MANY:
        return True
    peaks = [light[one.top : one.bottom, one.left : one.right].max() for one in strokes]
    ring, between = _looks(light, line, peak=float(np.median(peaks)))
    return bool(ring <= RING_SHARE and between <= BETWEEN)


def marks(light: Int16[np.ndarray, "h w"], *, apart: Sequence[Box]) -> list[Box]:
    """Single letters of lead, as ``L`` and ``R`` on radiographs: small, alone on a dark ground.

    Of those on phantom radiographs all are found that are at least 11 pixels high, and two of three of 7 pixels.

    Args:
        light: brightness.
        apart: lines that are known already.
    """
    bright = light >= max(LEAD * light.max(initial=0), DARKEST)
    for line in apart:
        bright[line.top : line.bottom, line.left : line.right] = False
    labels, _ = ndimage.label(bright, np.ones((3, 3)))
    return [
        Box(top=rows.start, left=columns.start, bottom=rows.stop, right=columns.stop)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1)
        if _is_mark(light, labels[rows, columns] == number, rows, columns)
    ]


def _is_mark(
    light: Int16[np.ndarray, "h w"], mine: Bool[np.ndarray, "height width"], rows: slice, columns: slice
) -> bool:
    """Whether connected pixels, which a box holds, are a letter."""
    height, width = mine.shape
    if not (
        MARK_PX[0] <= height <= MARK_PX[1]
        and SLIM[0] <= width / height <= SLIM[1]
        and MARK_FILL[0] <= mine.mean() <= MARK_FILL[1]
    ):
        return False
    box = Box(top=rows.start, left=columns.start, bottom=rows.stop, right=columns.stop)
    ring = _ring(light, box)
    if not ring.size:
        return False
    letter, around = np.percentile(light[rows, columns][mine], 90), np.percentile(ring, (90, 95))
    if letter - around[0] <= OUTSHINES or around[1] >= DIMMER * letter:
        return False
    return bool(_looks(light, box, peak=float(light[rows, columns].max()))[1] <= MARK_BETWEEN)


def _looks(light: Int16[np.ndarray, "h w"], box: Box, *, peak: float) -> tuple[float, float]:
    """Share of the ring around a box that is nearer to ink than to ground, and pixels between per pixel of ink."""
    inside = light[box.top : box.bottom, box.left : box.right]
    ground = float(np.percentile(inside, 20))
    quarter = max(peak - ground, 1.0) / 4
    ring = _ring(light, box) > ground + 2 * quarter
    ink = int(np.count_nonzero(inside >= ground + 3 * quarter))
    between = int(np.count_nonzero((inside > ground + quarter) & (inside < ground + 3 * quarter)))
    return float(ring.mean()) if ring.size else 0.0, between / max(ink, 1)


def _ring(light: Int16[np.ndarray, "h w"], box: Box) -> Int16[np.ndarray, " pixels"]:
    """The pixels around a box."""
    top, left = max(box.top - RING_PX, 0), max(box.left - RING_PX, 0)
    part = light[top : box.bottom + RING_PX, left : box.right + RING_PX]
    around = np.ones(part.shape, np.bool_)
    around[box.top - top : box.bottom - top, box.left - left : box.right - left] = False
    return np.asarray(part[around])
