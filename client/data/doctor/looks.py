"""What the doctor sees in each picture: one pass over the pixels, so that every check reads numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from client.data.doctor.hashes import Likeness, likeness, pixels_digest
from client.data.ingest.mapping import CLIP
from client.data.ingest.prepare import colour, is_coloured
from client.data.pictures import burned_in, clips
from client.data.pictures.decoder import decode
from common.errors import DataError
from common.exam import Roi
from common.imaging.doppler import brightness
from common.imaging.roi import MARGIN

AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A picture of the manifest."""

    line: int
    exam_id: str
    patient_id: str
    image: str
    path: str
    roi: Roi | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is in a picture; of a clip, whose image ends with ``_clip``, text and colour in any frame, else in one.

    Attributes:
        place: whose it is.
        digest: SHA-256 of its pixels.
        coloured: whether the ROI shows colour, text left out of account.
        coloured_anywhere: whether any of it does.
        roi_inside: whether the ROI lies inside.
        size: width and height.
        text_in_roi: lines of text that a network would see.
        text_outside: others.
        brightest: the 99.5th percentile of the ROI's brightness, 0 to 255.
        spread: from its 1st to its 99th percentile.
        grain: logarithm of how much more it changes downwards than across: speckle is wide across the beam.
        guesses: what the decoder had to guess.
    """

    place: Place
    digest: str
    likeness: Likeness
    coloured: bool
    coloured_anywhere: bool
    roi_inside: bool
    size: tuple[int, int]
    text_in_roi: int
    text_outside: int
    brightest: float
    spread: float
    grain: float
    guesses: tuple[str, ...]


def look(folder: Path, places: Sequence[Place]) -> Iterator[Look | tuple[Place, str]]:
    """Look at every picture; of one that cannot be read, why.

    Args:
        folder: where paths start.
        places: of the manifest.
    """

    def one(place: Place) -> Look | tuple[Place, str]:
        try:
            return _look(folder, place)
        except DataError as error:
            return place, str(error)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(places), AT_ONCE):
            yield from pool.map(one, places[start : start + AT_ONCE])


def _look(folder: Path, place: Place) -> Look:
    frames, guesses = _frames(folder / place.path, moves=place.image.endswith(CLIP))
    height, width = frames.shape[1:3]
    roi = place.roi or Roi(x=0, y=0, width=width, height=height)
    texts = burned_in.merged([box for frame in frames for box in burned_in.find(frame)])
    plain = np.stack([burned_in.mask(frame, texts) for frame in frames])
    seen = [box for box in texts if _reaches(box, roi)]
    inside = slice(roi.y, roi.y + roi.height), slice(roi.x, roi.x + roi.width)
    light, coloured = brightness(plain[0][inside]), [colour(frame) for frame in plain]
    low, high, brightest = np.percentile(light, (1, 99, 99.5)) if light.size else (0.0, 0.0, 0.0)
    return Look(
        place=place,
        digest=pixels_digest(frames.reshape(-1, width, 3)),
        likeness=likeness(np.asarray(Image.fromarray(frames[0]).convert("L"))),
        coloured=any(is_coloured(frame[inside]) for frame in coloured),
        coloured_anywhere=any(map(is_coloured, coloured)),
        roi_inside=roi.x + roi.width <= width and roi.y + roi.height <= height,
        size=(width, height),
        text_in_roi=len(seen),
        text_outside=len(texts) - len(seen),
        brightest=float(brightest),
        spread=float(high - low),
        grain=_grain(light),
        guesses=guesses,
    )


def _frames(path: Path, *, moves: bool) -> tuple[UInt8[np.ndarray, "frames h w 3"], tuple[str, ...]]:
    """All frames of a clip, or the one of a still, and what was guessed."""
    if moves:
        clip = clips.read(path, mode="RGB", wanted=None)
        return np.stack([np.asarray(image) for image in clip.images]), clip.notes
    try:
        decoded = decode(path.read_bytes(), mode="RGB")
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})") from None
    if decoded.frames > 1:
        raise DataError(f"holds {decoded.frames} pictures, expected one: export the one that is meant")
    return np.asarray(decoded.image)[None], decoded.notes


def _grain(light: UInt8[np.ndarray, "h w"]) -> float:
    """Zero where a picture is too small or too flat to tell."""
    if min(light.shape) < 2:
        return 0.0
    down, across = (float(np.abs(np.diff(light.astype(np.int16), axis=axis)).mean()) for axis in (0, 1))
    return float(np.log(down / across)) if min(down, across) > 0 else 0.0


def _reaches(box: burned_in.Box, roi: Roi) -> bool:
    """Whether a line of text reaches into the ROI and the margin that is stored with it."""
    across, down = MARGIN * roi.width, MARGIN * roi.height
    return (
        box.right > roi.x - across
        and box.left < roi.x + roi.width + across
        and box.bottom > roi.y - down
        and box.top < roi.y + roi.height + down
    )
