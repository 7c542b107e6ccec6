"""A picture to look at: what was kept of some screens, before and after. It shows names, so it stays private."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from common.exam import Roi

CELL_PX, TITLE_PX, GAP_PX = 480, 16, 8
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
    rows = [_row(screen) for screen in screens]
    width = CELL_PX * max((len(row) for row in rows), default=1)
    heights = [TITLE_PX + max(picture.height for _, picture in row) + GAP_PX for row in rows]
    sheet = Image.new("RGB", (width, max(sum(heights), 1)), (24, 24, 24))
    pen, top = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights, strict=True):
        for column, (title, picture) in enumerate(row):
            pen.text((column * CELL_PX + 2, top + 2), title, fill=(220, 220, 220))
            sheet.paste(picture, (column * CELL_PX, top + TITLE_PX))
        top += height
    return sheet


def _row(screen: Screen) -> list[tuple[str, Image.Image]]:
    """Titles and pictures no larger than a cell."""
    cells = [(screen.title, _marked(screen))]
    cells += [(part.title, Image.fromarray(part.result)) for part in screen.parts]
    for _, picture in cells:
        picture.thumbnail((CELL_PX - GAP_PX, CELL_PX - GAP_PX))
    return cells


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
