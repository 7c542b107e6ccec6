"""Finds text that a machine burned into a picture, and masks it.

No characters are read. Letters have vertical strokes a few pixels wide with an edge on either side, which a
scan has not: across the beam its speckle is many pixels wide. Strokes that stand side by side make a line of text.
Bones have such edges, too: :mod:`client.data.pictures.ink` tells them from letters, and finds a radiograph's side
marker. Text that stands upright, single letters inside the scan, and letters above 40 pixels are not found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, Int64, Shaped, UInt8
from scipy import ndimage

from client.data.pictures import ink
from client.data.pictures.box import Box
from common.imaging.doppler import brightness, flow_mask

__all__ = ["Box", "find", "mask", "share"]

TALLEST_PX = 40
BLOCK_PX = 16
AT_ONCE = 1024
"""Strokes whose neighbours are looked for together: those of all of them could need too much memory."""
WIDTHS_PX = ((1, 1.0), (2, 1.0), (3, 1.15), (5, 2.0))
"""Distance to the sides of a stroke, and how much more than the threshold it must stand out there."""
STEEP = 28
"""Largest threshold: letters have steeper edges, and so has the finest speckle."""
CROWDED = 0.02
"""Share of pixels in strokes, of most blocks around, from which it is the scan that has them."""
TAIL, WHITE = 2.3, 245.0
"""Of the distance from median to 90th percentile, how far speckle reaches; never asked of text to be brighter."""
CALM = 2.5
"""Grey levels from pixel to pixel up to which a block is no speckle, though it be among speckle."""
FAINT = 0.6
"""Share of the threshold that continues a line."""
FLAT = 1.0
"""Grey levels from pixel to pixel below which an area is background of the screen and no scan."""

SATURATION, DIMMEST = 0.40, 60
"""From where a pixel is coloured."""
RING_PX, RING_SHARE = 8, 0.1
"""Share of coloured pixels around a line from which it is flow amid flow."""
NEAR_PX, NEAR_SHARE = 4, 0.1
"""Share of coloured pixels around a dark stroke from which it is a gap between vessels."""
ONE_HUE = 0.01
"""Circular variance of hue, which is 0.01 at a standard deviation of 8 degrees."""


Kept = Callable[[Box], bool]
"""Which strokes are looked at."""
Strokes = Callable[[float], Sequence[Box]]
"""Share of the threshold -> strokes that stand out by it, from left to right."""


@dataclass(frozen=True, kw_only=True)
class _Seen:  # without slots, so that what is asked of it twice can be kept
    """A picture, light text on it, and what is asked of a stroke in each block.

    Attributes:
        light: brightness.
        noise: by how much a stroke would have to stand out from its sides to be sure; little beside the scan.
        threshold: by how much it has to.
    """

    light: Int16[np.ndarray, "h w"]
    noise: Float32[np.ndarray, "rows columns"]
    threshold: Float32[np.ndarray, "rows columns"]

    @cached_property
    def brightest(self) -> Float32[np.ndarray, "rows columns"]:
        """The upper end of speckle around each block."""
        usual, high = map(_over_blocks, np.percentile(_blocks(self.light), (50, 90), axis=2))
        return np.asarray(np.minimum(usual + TAIL * (high - usual), WHITE).astype(np.float32))


def find(rgb: UInt8[np.ndarray, "h w 3"]) -> tuple[Box, ...]:
    """Where text is, light on dark or dark on light, from top to bottom; grown by half a letter.

    Args:
        rgb: a picture.
    """
    light = brightness(rgb).astype(np.int16)
    flow = flow_mask(rgb, saturation=SATURATION) > 0
    flow &= light >= DIMMEST
    unrest, here = _unrest(light)
    threshold = np.clip(12 + 3 * unrest, 18, STEEP)
    noise = 12 + 3 * np.where(here > CALM, unrest, 0)
    everywhere = _spread(unrest, light.shape)
    seen = _Seen(light=light, noise=noise, threshold=threshold)
    strokes = cache(partial(_strokes, seen))
    found = _lines(seen, strokes, everywhere, fewest=4, kept=lambda box: not _coloured(light, flow, box))
    if flow.any():
        of_any_colour = _lines(seen, strokes, everywhere, fewest=4, kept=lambda _: True)
        found += [line for line in of_any_colour if _is_one_colour(rgb, flow, line)]
    dark = np.where(unrest < FLAT, threshold, np.maximum(noise, 60))  # gaps between fibres
    seen = _Seen(light=np.int16(255) - light, noise=noise, threshold=dark)
    strokes = cache(partial(_strokes, seen))
    found += _lines(seen, strokes, everywhere, fewest=5, kept=lambda box: not _near_flow(flow, box))
    if not flow.any():  # a radiograph has no colour
        found += ink.marks(light, apart=found)
    height, width = light.shape
    return tuple(sorted({_grown(line, height, width) for line in found}))


def mask(rgb: UInt8[np.ndarray, "h w 3"], boxes: Sequence[Box]) -> UInt8[np.ndarray, "h w 3"]:
    """A copy in which each box is filled with the median colour of the pixels around it."""
    out = rgb.copy()
    for box in boxes:
        around = rgb[max(box.top - 3, 0) : box.bottom + 3, max(box.left - 3, 0) : box.right + 3]
        ring = np.ones(around.shape[:2], np.bool_)
        ring[3:-3, 3:-3] = False
        out[box.top : box.bottom, box.left : box.right] = np.median(around[ring], axis=0).astype(np.uint8)
    return out


def merged(boxes: Sequence[Box]) -> list[Box]:
    """Boxes that overlap as one, so that a line found a little differently in each frame counts once; sorted."""
    apart: list[Box] = []
    for box in sorted(boxes):
        grown = box
        while (touching := next((other for other in apart if _overlap(grown, other)), None)) is not None:
            apart.remove(touching)
            grown = grown.joined(touching)
        apart.append(grown)
    return sorted(apart)


def _overlap(one: Box, other: Box) -> bool:
    return one.shared_rows(other) > 0 and min(one.right, other.right) > max(one.left, other.left)


def share(shape: tuple[int, ...], boxes: Sequence[Box]) -> float:
    """Which part of a picture of that height and width boxes cover, 0 to 1; pixels in two boxes count once."""
    covered = np.zeros(shape[:2], np.bool_)
    for box in boxes:
        covered[box.top : box.bottom, box.left : box.right] = True
    return float(covered.mean()) if covered.size else 0.0


def _unrest(
    light: Int16[np.ndarray, "h w"],
) -> tuple[Float32[np.ndarray, "rows columns"], Float32[np.ndarray, "rows columns"]]:
    """Usual difference of neighbours in a row: of the blocks around, so that text hardly counts; and of each."""
    steps = np.abs(np.diff(light, axis=1, append=light[:, -1:]))
    usual = np.percentile(_blocks(steps), 60, axis=2)
    around = np.asarray(ndimage.percentile_filter(usual, 50, size=(3, 5), mode="nearest"))
    return around.astype(np.float32), usual.astype(np.float32)


def _above(
    seen: _Seen, strokes: Bool[np.ndarray, "h w"], restless: Bool[np.ndarray, "rows columns"]
) -> Int16[np.ndarray, "h w"]:
    """What strokes must outshine where the scan itself is full of them, as fine-grained speckle is; else -1.

    Text stands in some blocks and leaves those around it empty, speckle fills nearly all. Its upper tail is short:
    of log-compressed Rayleigh amplitudes the 90th percentile lies 5.2 dB above the median, and one in 100,000
    is 12 dB above it.
    """
    filled = _over_blocks(np.count_nonzero(_blocks(strokes), axis=2) / BLOCK_PX**2)
    crowded = restless & (filled.astype(np.float32) > CROWDED)
    return _spread(_whole(np.where(crowded, seen.brightest, np.float32(-1))), seen.light.shape)


def _blocks(values: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "rows columns pixels"]:
    height, width = values.shape
    padded = np.pad(values, ((0, -height % BLOCK_PX), (0, -width % BLOCK_PX)), mode="edge")
    rows, columns = padded.shape[0] // BLOCK_PX, padded.shape[1] // BLOCK_PX
    parts = padded.reshape(rows, BLOCK_PX, columns, BLOCK_PX)
    return parts.transpose(0, 2, 1, 3).reshape(rows, columns, -1)


def _over_blocks(values: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "rows columns"]:
    """The median of the blocks around each."""
    return np.asarray(ndimage.percentile_filter(values, 50, size=(5, 7), mode="mirror"))


def _spread(values: Shaped[np.ndarray, "rows columns"], shape: tuple[int, ...]) -> Shaped[np.ndarray, "h w"]:
    """Each block's value at each of its pixels."""
    return values.repeat(BLOCK_PX, axis=0)[: shape[0]].repeat(BLOCK_PX, axis=1)[:, : shape[1]]


def _whole(values: Float32[np.ndarray, "rows columns"]) -> Int16[np.ndarray, "rows columns"]:
    """Rounded down: a whole number is above a value if it is above this one."""
    return np.asarray(np.floor(values), dtype=np.int16)


def _coloured(light: Int16[np.ndarray, "h w"], flow: Bool[np.ndarray, "h w"], stroke: Box) -> bool:
    """Whether a stroke's brightest pixels are coloured, as a vessel's are; what lies behind it does not count."""
    inside = slice(stroke.top, stroke.bottom), slice(stroke.left, stroke.right)
    if not flow[inside].any():
        return False
    bright = light[inside] >= light[inside].max() - 10
    return bool(flow[inside][bright].mean() > 0.5)


def _near_flow(flow: Bool[np.ndarray, "h w"], stroke: Box) -> bool:
    """Whether there is colour around a stroke: between two vessels is a dark one."""
    rows = slice(max(stroke.top - NEAR_PX, 0), stroke.bottom + NEAR_PX)
    columns = slice(max(stroke.left - NEAR_PX, 0), stroke.right + NEAR_PX)
    around = flow[rows, columns]
    return bool(np.count_nonzero(around) / around.size > NEAR_SHARE)


def _is_one_colour(rgb: UInt8[np.ndarray, "h w 3"], flow: Bool[np.ndarray, "h w"], line: Box) -> bool:
    """Whether what is coloured in a line is of one hue: text is, flow runs from red to yellow, or blue to cyan."""
    inside = slice(line.top, line.bottom), slice(line.left, line.right)
    around = flow[
        max(line.top - RING_PX, 0) : line.bottom + RING_PX, max(line.left - RING_PX, 0) : line.right + RING_PX
    ]
    outside = around.size - flow[inside].size
    if outside and (around.sum() - flow[inside].sum()) / outside > RING_SHARE:
        return False  # a vessel among vessels
    pixels = rgb[inside][flow[inside]].astype(np.float32)
    if not len(pixels):
        return True
    brightness = pixels.max(axis=1)
    red, green, blue = pixels[brightness >= 0.8 * brightness.max()].T
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    return bool(1 - np.abs(np.exp(1j * hue).mean()) < ONE_HUE)


def _upright(
    light: Int16[np.ndarray, "h w"], threshold: Float32[np.ndarray, "rows columns"]
) -> Bool[np.ndarray, "h w"]:
    """Pixels of upright ridges at least 3 pixels high."""
    reach = max(distance for distance, _ in WIDTHS_PX)
    padded = np.pad(light, ((0, 0), (reach, reach)), mode="edge")
    width = light.shape[1]
    ridge: Bool[np.ndarray, "h w"] = np.zeros(light.shape, np.bool_)
    for distance, times in WIDTHS_PX:
        left = padded[:, reach - distance : reach - distance + width]
        right = padded[:, reach + distance : reach + distance + width]
        ridge |= light - np.maximum(left, right) > _spread(_whole(threshold * times), light.shape)
    return _high(ridge)


def _high(ridge: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Those at least 3 pixels high; a slanted stroke moves aside."""
    wide = ridge.copy()
    wide[:, 1:] |= ridge[:, :-1]
    wide[:, :-1] |= ridge[:, 1:]
    core = wide[:-2] & wide[1:-1] & wide[2:]
    high = np.zeros_like(ridge)
    for start in range(3 if len(core) else 0):
        high[start : start + len(core)] |= core
    high &= ridge
    return high


def _strokes(seen: _Seen, share: float) -> list[Box]:
    """Upright ridges, from left to right, that stand out by a share of the threshold."""
    upright = _upright(seen.light, seen.threshold * np.float32(share))
    restless = seen.noise > STEEP * share
    if restless.any():
        upright = _high(upright & (seen.light > _above(seen, upright, restless)))
    labels, _ = ndimage.label(upright, np.ones((3, 3)))
    boxes = [
        Box(top=rows.start, left=columns.start, bottom=rows.stop, right=columns.stop)
        for rows, columns in ndimage.find_objects(labels)
    ]
    fitting = [box for box in boxes if 3 <= box.height <= TALLEST_PX and box.width <= TALLEST_PX]
    return sorted(fitting, key=lambda box: box.left)


def _lines(
    seen: _Seen, strokes: Strokes, unrest: Float32[np.ndarray, "h w"], *, fewest: int, kept: Kept
) -> list[Box]:
    """Lines of text: side by side at least ``fewest`` strokes, one less on the screen's background."""
    lines: list[Box] = []
    for group in _grouped([box for box in strokes(1.0) if kept(box)]):
        line = group[0]
        for stroke in group[1:]:
            line = line.joined(stroke)
        flat = bool(unrest[line.top : line.bottom, line.left : line.right].mean() < FLAT)
        aspect = 0.8 if flat else 1.2
        if (
            len(group) >= fewest - flat
            and 4 <= line.height <= TALLEST_PX
            and line.width >= aspect * line.height
            and ink.is_written(seen.light, line, group)
        ):
            lines.append(line)
    if not lines:
        return []
    faint = [box for box in strokes(FAINT) if kept(box)]
    return [_extended(line, faint) for line in lines]


def _grouped(strokes: Sequence[Box]) -> list[list[Box]]:
    """Strokes, from left to right, joined to the next ones of about their height, at most a height away."""
    parent = list(range(len(strokes)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    sides = np.array([(box.top, box.left, box.bottom, box.right) for box in strokes], np.int64).reshape(-1, 4)
    for start in range(0, len(strokes), AT_ONCE):
        for one, other in _neighbours(sides, np.arange(start, min(start + AT_ONCE, len(strokes)))).tolist():
            parent[root(one)] = root(other)
    groups: dict[int, list[Box]] = {}
    for index, stroke in enumerate(strokes):
        groups.setdefault(root(index), []).append(stroke)
    return list(groups.values())


def _neighbours(
    sides: Int64[np.ndarray, "strokes 4"], which: Int64[np.ndarray, " chosen"]
) -> Int64[np.ndarray, "pairs 2"]:
    """Each of the chosen strokes with those to its right that belong to it."""
    top, left, bottom, right = sides.T
    height = bottom - top
    counts = np.searchsorted(left, right[which] + TALLEST_PX, side="right") - which - 1
    one = which.repeat(counts)
    other = one + 1 + np.arange(len(one)) - (np.cumsum(counts) - counts).repeat(counts)
    lower, higher = np.minimum(height[one], height[other]), np.maximum(height[one], height[other])
    shared = np.minimum(bottom[one], bottom[other]) - np.maximum(top[one], top[other])
    near = left[other] - right[one] <= np.maximum(higher, 5)
    belong = near & (shared >= 0.5 * lower) & (lower >= 0.3 * higher)
    return np.stack([one[belong], other[belong]], axis=1)


def _extended(line: Box, faint: Sequence[Box]) -> Box:
    """A line with the fainter strokes before and after it, a word's gap away at most."""
    height, reach = line.height, max(1.6 * line.height, 8)
    while True:
        more = [
            stroke
            for stroke in faint
            if stroke.left < line.right + reach
            and stroke.right > line.left - reach
            and (stroke.left < line.left or stroke.right > line.right)
            and stroke.height <= 1.5 * height
            and stroke.shared_rows(line) >= 0.6 * stroke.height
        ]
        if not more:
            return line
        for stroke in more:
            line = line.joined(stroke)


def _grown(box: Box, height: int, width: int) -> Box:
    aside, up = max(3, box.height // 2), max(2, box.height // 4)
    return Box(
        top=max(box.top - up, 0),
        left=max(box.left - aside, 0),
        bottom=min(box.bottom + up, height),
        right=min(box.right + aside, width),
    )
