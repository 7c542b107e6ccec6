"""Pictures that look alike: a hash of slopes finds candidates, a correlation confirms them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

SIDE = 16
THUMBNAIL_PX = 48
MOST_BITS = 44
"""Of 256: unrelated pictures of one machine differ in 55 and more, a rescaled or recompressed copy in up to 33."""
CLOSEST = 0.90
"""Correlation of the two thumbnails from which pictures are the same: a copy that was cropped has less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """What a picture looks like, whatever its size, brightness and contrast.

    Attributes:
        bits: whether each of 16 x 16 cells is brighter than its left neighbour, packed.
        thumbnail: fine detail of 48 x 48 cells, of mean 0 and length 1.
    """

    bits: UInt8[np.ndarray, " bytes"]
    thumbnail: Float32[np.ndarray, " cells"]


def pixels_digest(rgb: UInt8[np.ndarray, "h w 3"]) -> str:
    """SHA-256 of a picture's pixels, whatever file they came in."""
    return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).hexdigest()


def likeness(grey: UInt8[np.ndarray, "h w"]) -> Likeness:
    """The likeness of a picture."""
    picture = Image.fromarray(grey)
    cells = np.asarray(picture.resize((SIDE + 1, SIDE), Image.Resampling.BOX)).astype(np.int16)
    small = picture.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    coarse = small.resize((6, 6), Image.Resampling.BOX).resize(small.size, Image.Resampling.BICUBIC)
    fine = np.asarray(small, dtype=np.float32) - np.asarray(coarse, dtype=np.float32)
    fine -= fine.mean()
    length = float(np.linalg.norm(fine))
    return Likeness(
        bits=np.packbits(cells[:, 1:] > cells[:, :-1]),
        thumbnail=(fine / length if length else fine).ravel().astype(np.float32),
    )


def alike(pictures: Sequence[Likeness]) -> Iterator[tuple[int, int]]:
    """Indices of each two pictures that are probably copies of one another."""
    if not pictures:
        return
    bits = np.stack([picture.bits for picture in pictures]).view(np.uint64).T.copy()  # words x pictures
    for one, picture in enumerate(pictures):
        distance = np.bitwise_count(bits[:, one + 1 :] ^ bits[:, one, None]).sum(axis=0, dtype=np.int32)
        for other in (np.flatnonzero(distance <= MOST_BITS) + one + 1).tolist():
            if float(picture.thumbnail @ pictures[other].thumbnail) >= CLOSEST:
                yield one, other
