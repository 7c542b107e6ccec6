"""Reads one picture and cuts the stored image from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from client.data.pictures import clips
from client.data.pictures.decoder import decode
from common.errors import DataError
from common.exam import ImageRef, Roi
from common.imaging.doppler import flow_mask
from common.imaging.roi import stored_px
from common.sections.networks import ImageSettings

CHANNELS = {"grey": 1, "doppler": 2, "colour": 3}


def stored_shape(image: ImageSettings, image_px: int) -> tuple[int, ...]:
    """Shape of one exam's stored image: ``(channels, side, side)``, of a clip with its frames before."""
    side = stored_px(image_px)
    still = (CHANNELS[image.kind], side, side)
    return still if image.frames is None else (image.frames, *still)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A stored image or clip, and the SHA-256 of the file it was cut from (of a folder of frames: of its files').

    Attributes:
        notes: what the decoder had to guess.
    """

    pixels: UInt8[np.ndarray, "*frames channels side side"]
    digest: str
    notes: tuple[str, ...] = ()


def read_cut(folder: Path, ref: ImageRef, image: ImageSettings, *, image_px: int) -> Cut:
    """Read a picture, of a clip each frame, once; cut its ROI with the margin, mask the flow, resize without aliases.

    Args:
        folder: the site's folder.
        ref: path and ROI.
        image: what kind of image it is.
        image_px: side of the ROI in the stored image.

    Raises:
        DataError: if the file is no whole PNG, JPEG or TIFF, holds several pictures, or the ROI lies outside of
            it; of a clip, if it is none, or has not as many frames as the manifest says.
    """
    mode = "L" if image.kind == "grey" else "RGB"
    if image.frames is not None:
        clip = clips.read(folder / ref.path, mode=mode, wanted=image.frames)
        if ref.frames not in (None, clip.frames):
            raise DataError(f"expected {ref.frames} frames, as the manifest says, got {clip.frames}")
        cuts = [_checked_cut(frame, ref, image, image_px=image_px) for frame in clip.images]
        return Cut(pixels=np.stack(cuts), digest=clip.digest, notes=clip.notes)
    content = clips.content_of(folder / ref.path)
    decoded = decode(content, mode=mode)
    if decoded.frames > 1:
        raise DataError(
            f"expected one picture in the file, got {decoded.frames}: export the one that is meant, or set "
            f"images' frames for a clip"
        )
    return Cut(
        pixels=_checked_cut(decoded.image, ref, image, image_px=image_px),
        digest=hashlib.sha256(content).hexdigest(),
        notes=decoded.notes,
    )


def _checked_cut(
    picture: Image.Image, ref: ImageRef, image: ImageSettings, *, image_px: int
) -> UInt8[np.ndarray, "channels side side"]:
    roi = ref.roi or Roi(x=0, y=0, width=picture.width, height=picture.height)
    if roi.x + roi.width > picture.width or roi.y + roi.height > picture.height:
        raise DataError(f"expected an ROI inside {picture.width} x {picture.height} pixels, got {roi.text}")
    return _cut(picture, roi, image, image_px=image_px)


def _cut(
    picture: Image.Image, roi: Roi, image: ImageSettings, *, image_px: int
) -> UInt8[np.ndarray, "channels side side"]:
    side = stored_px(image_px)
    margin = (side - image_px) / (2 * image_px)
    left, top = roi.x - margin * roi.width, roi.y - margin * roi.height
    right, bottom = roi.x + (1 + margin) * roi.width, roi.y + (1 + margin) * roi.height
    region, x, y = _region(picture, (left, top, right, bottom))
    box = (left - x, top - y, right - x, bottom - y)

    def resized(
        part: Image.Image, how: Image.Resampling = Image.Resampling.BILINEAR
    ) -> UInt8[np.ndarray, "*shape"]:
        return np.asarray(part.resize((side, side), how, box=box))

    if image.kind == "grey":
        return resized(region)[None]
    if image.kind == "colour":
        return np.moveaxis(resized(region), 2, 0)
    mask = flow_mask(np.asarray(region), saturation=image.mask_saturation)
    return np.stack([resized(region.convert("L")), resized(Image.fromarray(mask), Image.Resampling.BOX)])


def _region(picture: Image.Image, box: tuple[float, float, float, float]) -> tuple[Image.Image, int, int]:
    """The pixels that a box touches, with the picture's edge repeated beyond it, and their origin."""
    left, top = (int(np.floor(value)) for value in box[:2])
    right, bottom = (int(np.ceil(value)) for value in box[2:])
    x, y = max(left, 0), max(top, 0)
    inside = picture.crop((x, y, min(right, picture.width), min(bottom, picture.height)))
    pad = (y - top, bottom - y - inside.height), (x - left, right - x - inside.width)
    if not any(map(any, pad)):
        return inside, x, y
    values = np.asarray(inside)
    padded = np.pad(values, (*pad, (0, 0))[: values.ndim], mode="edge")
    return Image.fromarray(padded), left, top
