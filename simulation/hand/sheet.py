"""A contact sheet of radiographs, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from simulation.hand.grid import Layout
from simulation.hand.machines import Machine
from simulation.hand.radiographs import Radiograph
from simulation.hand.sites import severity_class


def sheet(
    radiographs: Sequence[tuple[Radiograph, Machine]], *, columns: int = 3, width_px: int = 512
) -> Image.Image:
    """Pictures in rows, each with its machine, its total and its class below.

    Args:
        radiographs: with the machine of each.
        columns: pictures in a row.
        width_px: of a picture.
    """
    layout, line, gap = Layout(width_px=width_px), 16, 6
    rows = -(-len(radiographs) // columns)
    cell = layout.width_px + gap, layout.height_px + line + gap
    image = Image.new("L", (columns * cell[0], rows * cell[1]), 255)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    for place, (radiograph, machine) in enumerate(radiographs):
        x, y = (place % columns) * cell[0], (place // columns) * cell[1]
        image.paste(Image.fromarray(radiograph.picture(machine, layout)), (x, y))
        total = radiograph.scores.total
        text = f"{machine.name}: total {total}, class {severity_class(total)}"
        draw.text((x + 3, y + layout.height_px + 1), text, fill=0, font=font)
    return image
