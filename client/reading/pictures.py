"""Pictures as a reader sees them: at the machine's own resolution, frame by frame, and where a region may lie."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from client.data.pictures import clips
from client.reading.worklist import Listed
from common.errors import DataError
from common.exam import Roi

Rgb: TypeAlias = UInt8[np.ndarray, "h w 3"]
KEPT = 32
"""Pictures that stay decoded: those around the exam that is open."""
MOST_LOOKED_AT = 200
"""Exams whose regions a suggestion is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One frame, in colour, ready for a browser.

    Attributes:
        pixels: of the whole picture.
        png: the same for a browser.
        frames: of the file.
    """

    pixels: Rgb
    png: bytes
    frames: int

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])

    def part(self, roi: Roi | None) -> Rgb:
        """The pixels of a region; ``None``: all."""
        if roi is None:
            return self.pixels
        return self.pixels[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]


def png(pixels: Rgb) -> bytes:
    """Pixels as a file for a browser; quickly, since it goes no further than this machine."""
    output = io.BytesIO()
    Image.fromarray(pixels).save(output, format="PNG", compress_level=1)
    return output.getvalue()


def frame(path: Path, number: int = 1) -> Shown:
    """A frame of a picture's file.

    Args:
        path: the file.
        number: from 1.

    Raises:
        DataError: if it cannot be shown.
    """
    return _frame(path, number, _stamp(path))


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture, from the start of its file; (0, 0) if that cannot be read."""
    try:
        with Image.open(clips.files_of(path)[0]) as opened:
            return opened.size
    except (OSError, ValueError, IndexError, Image.DecompressionBombError):
        return 0, 0


def suggested(
    exam: Listed, image: str, exams: Iterable[Listed], drawn: Mapping[tuple[str, str], Roi], folder: Path
) -> Roi | None:
    """Where the region of a picture may lie: the median of those of the site's other pictures that look alike.

    Alike are pictures of the same image, machine and size. ``None`` where there are none.

    Args:
        exam: whose region is wanted.
        image: which of its images.
        exams: of the site.
        drawn: (exam, image) -> regions that go before the manifest's.
        folder: of the pictures.
    """
    wanted = size(folder / exam.images[image].path)
    boxes: list[tuple[int, int, int, int]] = []
    for other in exams:
        if len(boxes) == MOST_LOOKED_AT:
            break
        alike = other.about["device"] == exam.about["device"] and image in other.images
        if other.exam_id == exam.exam_id or not alike:
            continue
        roi = drawn.get((other.exam_id, image)) or other.images[image].roi
        if roi is not None and size(folder / other.images[image].path) == wanted:
            boxes.append((roi.x, roi.y, roi.width, roi.height))
    if not boxes:
        return None
    x, y, width, height = (int(value) for value in np.median(boxes, axis=0))
    return Roi(x=x, y=y, width=min(width, wanted[0] - x), height=min(height, wanted[1] - y))


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"The picture cannot be read ({error.strerror}): is its file still there?") from None


@lru_cache(maxsize=KEPT)
def _frame(path: Path, number: int, stamp: int) -> Shown:
    del stamp  # a changed file is another picture
    image, frames = clips.frame(path, number)
    pixels = np.asarray(image)
    return Shown(pixels=pixels, png=png(pixels), frames=frames)
