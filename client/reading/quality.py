"""Simple measures of a picture that suggest why it may be of little use; a person decides.

Each is a rule of thumb on the region of interest, named with its limit below. Anisotropy, and whether bone and
synovium are shown, are not measured: a rule for the shadow under a bone was wrong in a third of phantoms.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from client.reading.pictures import Rgb
from common.imaging.doppler import flow_mask

LEAST_SHARPNESS = 0.5
"""Of the median of the machine's other pictures."""
MOST_FLOW = 0.5
"""Share of the region in colour: more is a flash of something that moved."""
LEAST_FLOW_PX = 30
MOST_TURNS = 0.08
"""Share of neighbouring pixels of flow whose directions are opposite, without a dark seam between."""


def sharpness(picture: Rgb) -> float:
    """Mean absolute second difference of neighbouring grey levels over their their spread; 0 of a flat one."""
    grey = _grey(picture)
    spread = float(grey.std())
    if min(grey.shape) < 3 or spread < 1:
        return 0.0
    inner = grey[1:-1, 1:-1]
    second = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.abs(second).mean() / spread)


def suggestions(picture: Rgb, *, usual_sharpness: float | None, saturation: float) -> tuple[str, ...]:
    """Reasons for exclusion that a picture's pixels speak for, of :data:`client.data.tables.manifest.REASONS`.

    Args:
        picture: the region of interest.
        usual_sharpness: of the machine's pictures, ``None`` if not known.
        saturation: from which on a pixel is flow (:func:`common.imaging.doppler.flow_mask`).
    """
    found = []
    if usual_sharpness is not None and sharpness(picture) < LEAST_SHARPNESS * usual_sharpness:
        found.append("blur")
    flow = flow_mask(picture, saturation=saturation) > 0
    if int(flow.sum()) >= LEAST_FLOW_PX:
        if float(flow.mean()) > MOST_FLOW:
            found.append("motion")
        if _turns(picture, flow) > MOST_TURNS:
            found.append("aliasing")
    return tuple(found)


def _grey(picture: Rgb) -> Float[np.ndarray, "h w"]:
    return np.asarray(picture.mean(axis=2), dtype=np.float64)


def _turns(picture: Rgb, flow: np.ndarray) -> float:
    """Share of neighbouring flow pixels, of which one is red and the other blue."""
    values = picture.astype(np.int64)
    towards = np.sign(values[..., 0] - values[..., 2])
    pairs = turned = 0
    for axis in (0, 1):
        one, other = (np.take(flow, range(s, flow.shape[axis] - 1 + s), axis=axis) for s in (0, 1))
        a, b = (np.take(towards, range(s, flow.shape[axis] - 1 + s), axis=axis) for s in (0, 1))
        both = one & other
        pairs += int(both.sum())
        turned += int((both & (a * b < 0)).sum())
    return turned / pairs if pairs else 0.0
