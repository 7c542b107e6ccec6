"""A picture to look at: what was kept of some screens, before and after. It shows names, so it stays private."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from common.exam import Roi

CELL_PX = 400
KEPT, ROI, MASKED = (60, 220, 60), (80, 160, 255), (255, 60, 60)
"""Colours of the kept part, the ROI in it, and what was painted over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A kept part of a screen.

    Attributes:
        box: in pixels of the screen.
        roi: in pixels of the kept part.
        masked: in pixels of the kept part.
        result: what was written.
    """

    box: Roi
    roi: Roi | None
    masked: Sequence[Roi]
    result: UInt8[np.ndarray, "h w 3"]
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """A file's whole picture and what is kept of it."""

    rgb: UInt8[np.ndarray, "h w 3"]
    title: str
    parts: tuple[Part, ...]


def draw(screens: Sequence[Screen]) -> Image.Image:
    """A row a screen: the screen with its boxes, then what was written of it."""
    height = CELL_PX + 16
    columns = 1 + max((len(screen.parts) for screen in screens), default=1)
    sheet = Image.new("RGB", (columns * CELL_PX, max(len(screens), 1) * height), (24, 24, 24))
    for row, screen in enumerate(screens):
        cells = [(screen.title, _marked(screen))]
        cells += [(part.title, Image.fromarray(part.result)) for part in screen.parts]
        for column, (title, picture) in enumerate(cells):
            small = picture.copy()
            small.thumbnail((CELL_PX - 6, CELL_PX - 6))
            sheet.paste(small, (column * CELL_PX, row * height + 16))
            ImageDraw.Draw(sheet).text((column * CELL_PX + 2, row * height + 2), title, fill=(220, 220, 220))
    return sheet


def _marked(screen: Screen) -> Image.Image:
    marked = Image.fromarray(screen.rgb)
    pen = ImageDraw.Draw(marked)
    for part in screen.parts:
        for box in part.masked:
            _rectangle(pen, box, MASKED, part.box)
        if part.roi is not None:
            _rectangle(pen, part.roi, ROI, part.box)
        _rectangle(pen, part.box, KEPT, Roi(x=0, y=0, width=1, height=1))
    return marked


def _rectangle(pen: ImageDraw.ImageDraw, box: Roi, colour: tuple[int, int, int], origin: Roi) -> None:
    left, top = origin.x + box.x, origin.y + box.y
    pen.rectangle((left, top, left + box.width - 1, top + box.height - 1), outline=colour, width=2)
