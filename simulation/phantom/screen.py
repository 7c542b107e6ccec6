"""What a machine puts on the screen: scan, colours of the flow, box, colour bar, calipers, burned-in text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from simulation.phantom.arrays import Bytes, Mask, Singles
from simulation.phantom.devices import Device

Box = tuple[int, int, int, int]
Pixel = TypeVar("Pixel", np.uint8, np.bool_)
REFERENCE_PX = 224
"""Side of the region of interest that the sizes below and in device profiles are given for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of a picture in pixels, for a square region of interest of side ``roi``."""

    roi: int

    @property
    def zoom(self) -> float:
        """Pixels for one pixel of the reference size."""
        return self.roi / REFERENCE_PX

    @property
    def width(self) -> int:
        """Width of scan and picture; even, since a scan line covers two columns."""
        return 2 * round(150 * self.zoom)

    @property
    def depth(self) -> int:
        """Height of the scan."""
        return round(300 * self.zoom)

    @property
    def header(self) -> int:
        """Height of the strip above the scan."""
        return round(14 * self.zoom)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What is burned into a picture."""

    patient: str
    date: str
    joint: str
    annotated: bool
    calipers: tuple[int, int, int, int] | None


def convert(lines: Bytes) -> Bytes:
    """Scan conversion ``(n, lines, depth)`` -> ``(n, depth, 2 lines)``; odd columns lie between two lines."""
    rows = np.ascontiguousarray(lines.transpose(0, 2, 1))
    out = np.empty((*rows.shape[:2], 2 * rows.shape[2]), np.uint8)
    wide = rows.astype(np.uint16)
    out[..., ::2], out[..., -1] = rows, rows[..., -1]
    out[..., 1:-1:2] = (wide[..., :-1] + wide[..., 1:] + 1) >> 1
    return out


def frame(scan: NDArray[Pixel], layout: Layout) -> NDArray[Pixel]:
    """Put scans or masks ``(n, depth, width)`` under an empty header."""
    return np.pad(scan, ((0, 0), (layout.header, 0), (0, 0)))


def colour_flow(
    rng: np.random.Generator,
    rgb: Bytes,
    speed: Singles,
    device: Device,
    *,
    top: int,
    box: Box,
) -> Mask:
    """Paint the flow that the machine shows over a picture (in place).

    Args:
        rng: for directions and false specks.
        rgb: picture ``(height, width, 3)``.
        speed: relative speeds ``(depth, width)``.
        device: gives colours and threshold.
        top: first row of the scan in the picture.
        box: Doppler box (left, top, right, bottom) in the scan; nothing is shown outside.

    Returns:
        Mask ``(depth, width)`` of what is shown.
    """
    shown = np.zeros(speed.shape, np.bool_)
    left, upper, right, lower = box
    if speed.any():
        seen = gaussian_filter(speed[upper:lower, left:right], (0.7, 0.9))
        seen *= 1.0 + 0.10 * rng.standard_normal(seen.shape, dtype=np.float32)
        away = gaussian_filter(rng.standard_normal(seen.shape, dtype=np.float32), 7.0) < -0.02
        visible = seen > device.flow_threshold
        shown[upper:lower, left:right] = visible
        part = rgb[top + upper : top + lower, left:right]
        part[visible] = _map(device.doppler)[
            (np.clip(seen, 0, 1) * 255).astype(np.uint8)[visible], away[visible] * 1
        ]
    for _ in range(rng.poisson(device.colour_noise)):
        row, column = int(rng.integers(upper, lower - 2)), int(rng.integers(left, right - 2))
        size = rng.integers(1, 3, size=2)
        colour = _map(device.doppler)[int(rng.integers(60, 150)), int(rng.integers(2))]
        rgb[top + row : top + row + size[0], column : column + size[1]] = colour
    return shown


def annotate(picture: Bytes, device: Device, texts: Texts, layout: Layout, *, doppler: bool) -> Bytes:
    """Burn header, joint and calipers into a grey ``(h, w)`` or colour ``(h, w, 3)`` picture.

    Args:
        picture: is not changed.
        device: gives maker and colour of the text.
        texts: what to write.
        layout: sizes.
        doppler: whether flow is shown, which some makers write on the screen.
    """
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), _font(max(round(9 * layout.zoom), 6))
    colour: tuple[int, int, int] | int = device.text_colour if picture.ndim == 3 else max(device.text_colour)
    mode = {"colour": "CF", "power": "PD"}[device.doppler] if doppler else "B"
    draw.text((3, 1), f"{texts.patient}  {texts.date}  {mode}", fill=colour, font=font)
    draw.text((layout.width * 0.64, 1), device.maker, fill=colour, font=font)
    if texts.annotated:
        draw.text(
            (layout.width * 0.68, layout.header + layout.depth * 0.66), texts.joint, fill=colour, font=font
        )
    if texts.calipers is not None and not doppler:
        _calipers(draw, texts.calipers, colour)
    return np.asarray(image)


def outline(rgb: Bytes, device: Device, *, top: int, box: Box) -> None:
    """Draw the Doppler box and the colour bar (in place)."""
    left, upper, right, lower = box
    colour = device.box_colour
    rgb[top + upper, left:right] = rgb[top + lower - 1, left:right] = colour
    rgb[top + upper : top + lower, left] = rgb[top + upper : top + lower, right - 1] = colour
    height = rgb.shape[0] // 5
    levels = np.linspace(255, 0, height).astype(np.uint8)
    bar = _map(device.doppler)[levels, 0]
    rgb[top + 4 : top + 4 + height, 3:8] = bar[:, None, :]
    if device.doppler == "colour":
        rgb[top + 4 + height : top + 4 + 2 * height, 3:8] = _map("colour")[levels[::-1], 1][:, None, :]


@cache
def _map(kind: str) -> Bytes:
    """RGB for speeds 0-255, towards the probe and away from it: ``(256, 2, 3)``; saturated everywhere."""
    stops = [0, 90, 170, 255]
    towards = {
        "colour": [(120, 0, 0), (205, 10, 5), (245, 90, 0), (255, 215, 40)],
        "power": [(110, 15, 0), (190, 50, 0), (245, 130, 10), (255, 225, 70)],
    }[kind]
    away = towards if kind == "power" else [(0, 0, 130), (5, 25, 210), (0, 110, 245), (60, 215, 255)]
    levels = np.arange(256)
    ramps = [
        [np.interp(levels, stops, [stop[c] for stop in side]) for c in range(3)] for side in (towards, away)
    ]
    return np.ascontiguousarray(np.array(ramps).transpose(2, 0, 1).round().astype(np.uint8))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    font = ImageFont.load_default(size=size)
    if isinstance(font, ImageFont.FreeTypeFont):
        # A clip's frames have the same texts, which take longest to draw.
        font.getmask2 = lru_cache(maxsize=64)(font.getmask2)  # type: ignore[assignment,method-assign]
    return font


def _calipers(
    draw: ImageDraw.ImageDraw, ends: tuple[int, int, int, int], colour: tuple[int, int, int] | int
) -> None:
    for x, y in (ends[:2], ends[2:]):
        draw.line((x - 3, y, x + 3, y), fill=colour)
        draw.line((x, y - 3, x, y + 3), fill=colour)
    count = max(abs(ends[3] - ends[1]), abs(ends[2] - ends[0])) // 4
    for step in range(1, count):
        part = step / count
        draw.point((ends[0] + (ends[2] - ends[0]) * part, ends[1] + (ends[3] - ends[1]) * part), fill=colour)
