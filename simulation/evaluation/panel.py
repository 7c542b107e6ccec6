"""One picture as RATING's reading software shows an exam: pictures, heatmaps under them, scores below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from common.exam import Roi

CELL_PX, GAP_PX, TITLE_PX = 420, 12, 24
BACKGROUND, INK, SOFT, BOX = (18, 18, 20), (240, 240, 240), (165, 165, 170), (90, 220, 255)

Tile: TypeAlias = tuple[str, Image.Image | None]
"""A title and what is below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One image of the exam.

    Attributes:
        title: of the image.
        picture: the whole picture, RGB.
        roi: the region that was scored; ``None``: all of it.
        heatmap: the region under its heatmap; ``None`` where no heatmap reads the image.
    """

    title: str
    picture: Image.Image
    roi: Roi | None
    heatmap: Image.Image | None


def draw(
    columns: Sequence[Column], *, scores: Mapping[str, int], explained: str, notes: Sequence[str]
) -> Image.Image:
    """The panel.

    Args:
        columns: the images, from left to right.
        scores: name -> grade.
        explained: what the heatmaps are about.
        notes: lines in small print.
    """
    text = "     ".join(f"{name} {grade}" for name, grade in scores.items())
    strips = [
        _row([(column.title, _with_roi(column)) for column in columns]),
        _row(
            [(f"{column.title}: {explained}" if column.heatmap else "", column.heatmap) for column in columns]
        ),
        _line(text, colour=INK, size=24),
        *(_line(note, colour=SOFT, size=14) for note in notes),
    ]
    width = len(columns) * (CELL_PX + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width, sum(strip.height + GAP_PX for strip in strips) + GAP_PX), BACKGROUND)
    top = GAP_PX
    for strip in strips:
        sheet.paste(strip, (GAP_PX, top))
        top += strip.height + GAP_PX
    return sheet


def _row(tiles: Sequence[Tile]) -> Image.Image:
    """Tiles side by side, each as wide as a cell."""
    scaled = [None if picture is None else _scaled(picture) for _, picture in tiles]
    height = TITLE_PX + max((picture.height for picture in scaled if picture is not None), default=0)
    row = Image.new("RGB", (len(tiles) * (CELL_PX + GAP_PX), height), BACKGROUND)
    for index, ((title, _), picture) in enumerate(zip(tiles, scaled, strict=True)):
        left = index * (CELL_PX + GAP_PX)
        ImageDraw.Draw(row).text((left, 0), title, fill=SOFT, font=ImageFont.load_default(size=15))
        if picture is not None:
            row.paste(picture, (left, TITLE_PX))
    return row


def _line(text: str, *, colour: tuple[int, int, int], size: int) -> Image.Image:
    font = ImageFont.load_default(size=size)
    _, _, right, bottom = font.getbbox(text)
    line = Image.new("RGB", (max(1, round(right)), max(1, round(bottom))), BACKGROUND)
    ImageDraw.Draw(line).text((0, 0), text, fill=colour, font=font)
    return line


def _with_roi(column: Column) -> Image.Image:
    picture, roi = column.picture.copy(), column.roi
    if roi is not None:
        line_px = max(2, round(picture.width / CELL_PX))
        corners = (roi.x, roi.y, roi.x + roi.width - 1, roi.y + roi.height - 1)
        ImageDraw.Draw(picture).rectangle(corners, outline=BOX, width=line_px)
    return picture


def _scaled(picture: Image.Image) -> Image.Image:
    height = max(1, round(picture.height * CELL_PX / picture.width))
    return picture.resize((CELL_PX, height), Image.Resampling.BICUBIC)
