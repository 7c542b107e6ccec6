"""What is burned into a radiograph: side marker, and text at the edges that names the patient."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from simulation.hand.grid import FIELD_MM, Layout
from simulation.hand.machines import Machine
from simulation.phantom.arrays import Bytes

MARKER_MM, LETTER_MM = 11.0, 6.5
LEAST_PX = 9
"""Height below which text could not be read."""
INSTITUTIONS = ("ST MARY", "CITY HOSPITAL", "KLINIKUM", "RHEUMATOLOGY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What is written on a picture, and where.

    Attributes:
        patient: number.
        taken: day.
        institution: name, of no real one.
        below: whether the text stands at the lower edge between the forearms; else in the upper corners.
        marker: ``R`` or ``L`` in lead.
        marker_at: its place from the upper left corner, in mm.
        marker_turn: by how many degrees it lies askew.
        ringed: whether it stands in a circle.
    """

    patient: str
    taken: date
    institution: str
    below: bool
    marker: str
    marker_at: tuple[float, float]
    marker_turn: float
    ringed: bool


def draw_labels(rng: np.random.Generator, *, taken: date) -> Labels:
    """Labels of one picture."""
    right = bool(rng.random() < 0.8)
    aside = float(rng.uniform(15, 21))
    return Labels(
        patient=f"PH{rng.integers(10**6):06d}",
        taken=taken,
        institution=str(rng.choice(INSTITUTIONS)),
        below=bool(rng.random() < 0.4),
        marker="R" if right else "L",
        marker_at=(FIELD_MM[0] - aside if right else aside, float(rng.uniform(22, 42))),
        marker_turn=float(rng.normal(0, 7)),
        ringed=bool(rng.random() < 0.3),
    )


def label(picture: Bytes, labels: Labels, machine: Machine, layout: Layout) -> Bytes:
    """A copy of a grey picture ``(height, width)`` with marker and text."""
    image = Image.fromarray(picture)
    _put_marker(image, labels, layout)
    size = max(round(5.0 / layout.px_mm), LEAST_PX)
    draw, font = ImageDraw.Draw(image), _font(size)
    for text, (x, y), anchor in _lines(labels, machine, layout, size):
        draw.text((x, y), text, fill=machine.text, font=font, anchor=anchor)
    return np.asarray(image)


def _lines(
    labels: Labels, machine: Machine, layout: Layout, size: int
) -> tuple[tuple[str, tuple[float, float], str], ...]:
    """Text, place and anchor of each line: in both upper corners, or below between the forearms."""
    who = f"{labels.patient}  {labels.taken.isoformat()}"
    where, width = f"{labels.institution}  {machine.maker}", layout.width_px
    if labels.below:
        bottom = layout.height_px - 4
        return (who, (width / 2, bottom - 1.4 * size), "ms"), (where, (width / 2, bottom), "ms")
    return (who, (5, 3), "la"), (where, (width - 6, 3), "ra")


def _put_marker(image: Image.Image, labels: Labels, layout: Layout) -> None:
    """Lead lets nothing through: as bright as the picture gets."""
    side = max(round(MARKER_MM / layout.px_mm), 8)
    lead = Image.new("L", (2 * side, 2 * side), 0)
    draw, middle = ImageDraw.Draw(lead), (side, side)
    font = _font(max(round(2 * LETTER_MM / layout.px_mm), 8))
    draw.text(middle, labels.marker, fill=255, font=font, anchor="mm")
    if labels.ringed:
        draw.ellipse((2, 2, 2 * side - 3, 2 * side - 3), outline=255, width=max(side // 14, 1))
    turned = lead.rotate(labels.marker_turn, Image.Resampling.BICUBIC).resize(
        (side, side), Image.Resampling.BOX
    )
    x, y = (round(value / layout.px_mm - side / 2) for value in labels.marker_at)
    image.paste(Image.new("L", (side, side), 252), (x, y), turned)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
