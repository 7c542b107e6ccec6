"""The one decoder of PNG, JPEG and TIFF: upright, 8 bits per channel, and what had to be guessed said in words.

**Depth.** A file with 16 bits per channel seldom says how many of them it uses. Of each picture by itself, and so
the same wherever it is read:

| the file | read as |
|---|---|
| says fewer bits (PNG ``sBIT``; TIFF ``BitsPerSample``, ``MaxSampleValue``), and no value needs more | these bits |
| says fewer bits, but values need more | 16 bits, as PNG asks of those who scale |
| says nothing, the largest value needs over 14 bits | 16 bits |
| says nothing, the largest value needs 14, 12, 10 or 8 bits at most | these bits, **and a note**: a guess |

The guess brightens a truly dark picture of 16 bits, whose brightest pixel is under a quarter of what it may be;
the note names the file wherever it is read, so that a person can look.

**Turned pictures.** The orientation of EXIF (in PNG's ``eXIf`` and JPEG's ``APP1``) and TIFF's tag 274 is applied:
rows and columns, and with them regions of interest, are those that a viewer shows.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from common.errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF")
LARGEST_PX = 50_000_000
"""No ultrasound picture is larger; a small file that claims to be is an attack on memory."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that machines use of 16."""
HEAD_BYTES = 132
"""From which :func:`kind_of` tells what a file is."""
EXPECTED = "expected DICOM, PNG, JPEG or TIFF"
_STARTS = (
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("JPEG", rb"\xff\xd8\xff"),
    ("TIFF", rb"II[*+]\x00|MM\x00[*+]"),
    ("GIF", rb"GIF8[79]a"),
    ("BMP", rb"BM.{4}\x00{4}"),
    ("WebP", rb"RIFF.{4}WEBP"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
    ("AVIF", rb".{4}ftypavi[fs]"),
    ("HEIC", rb".{4}ftyp(?:he[iv][cmsx]|mif1|msf1)"),
    ("PSD", rb"8BPS"),
    ("PNM", rb"P[1-7][ \t\r\n]"),
    ("film", rb".{4}ftyp|RIFF.{4}AVI |\x00\x00\x01[\xb3\xba]|\x1aE\xdf\xa3|0&\xb2u\x8ef\xcf\x11"),
    ("PDF", rb"%PDF-"),
)
_TAG_BITS, _TAG_PHOTOMETRIC, _TAG_SUBFILE, _TAG_MAX_VALUE = 258, 262, 254, 281
_NO_PAGE = 0b101
"""Bits of ``NewSubfileType``: a smaller copy, a mask."""
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A decoded picture.

    Attributes:
        image: upright, in Pillow's ``L`` or ``RGB``.
        frames: how many pictures the file holds.
        notes: what was guessed or left aside, each to be read after "with"; nothing of the file's name or values.
    """

    image: Image.Image
    frames: int
    notes: tuple[str, ...]


def kind_of(head: bytes) -> str | None:
    """What a file that starts so is, in one word, whether it can be used or not; ``None``: not known."""
    return next((name for name, start in _STARTS if re.match(start, head, re.DOTALL)), None)


def unusable(head: bytes) -> str | None:
    """Why a file that starts so cannot be decoded here, ``None`` if it can be tried."""
    kind = kind_of(head)
    if kind in FORMATS:
        return None
    if not head:
        return f"is empty (0 bytes), {EXPECTED}"
    if kind is None:
        return f"its content is that of no known picture, {EXPECTED}"
    return f"is {kind}, {EXPECTED}: export it as one of these"


def decode(content: bytes, *, mode: str, frame: int | None = None) -> Decoded:
    """A picture of a file.

    Args:
        content: of the file.
        mode: Pillow's ``L`` or ``RGB``.
        frame: which one of several, from 1; ``None``: the first, and a note that there are others.

    Raises:
        DataError: if it is no whole PNG, JPEG or TIFF, or its range of values is not known; says which.
    """
    (decoded,) = decode_frames(content, mode=mode, chosen=lambda pages: [_one(pages, frame)])
    notes = [several(decoded.frames)] if frame is None and decoded.frames > 1 else []
    return replace(decoded, notes=(*decoded.notes, *notes))


def pages(content: bytes) -> int:
    """How many pictures a file holds that :func:`decode` can try; 1 where that cannot be told."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            return len(list(_pages(opened)))
    except Exception:  # as below; whoever decodes it says what is wrong
        return 1


def decode_frames(
    content: bytes, *, mode: str, chosen: Callable[[int], Sequence[int]]
) -> tuple[Decoded, ...]:
    """Several pictures of a file, which is opened once.

    Args:
        content: of the file.
        mode: Pillow's ``L`` or ``RGB``.
        chosen: which, from 0, of how many there are; each is decoded once for each time that it is named.

    Raises:
        DataError: as :func:`decode`.
    """
    reason, kind = unusable(content[:HEAD_BYTES]), kind_of(content[:HEAD_BYTES])
    if reason is not None:
        raise DataError(reason)
    try:
        return _decode(content, mode=mode, chosen=chosen)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(_too_large()) from None
    except UnidentifiedImageError:
        raise DataError(f"expected a whole {kind}, its start is damaged or of an unusual make") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything: KeyError, struct.error
        raise DataError(
            f"expected a whole {kind}, it is cut off or damaged ({type(error).__name__})"
        ) from None


def depth(largest: int, *, declared: int | None = None) -> tuple[int, str]:
    """How many of 16 bits a picture uses, and a note where that is a guess; the rule stands above.

    Args:
        largest: of its values, at least 0.
        declared: bits that the file says it uses, if it does.
    """
    if declared is not None and declared < DEPTHS[-1]:
        return (declared if largest < 2**declared else DEPTHS[-1]), ""
    bits = next(bits for bits in DEPTHS if largest < 2**bits)
    if bits == DEPTHS[-1] or not largest:
        return DEPTHS[-1], ""
    return bits, f"16 bits per channel, of which {bits} are used, read as {bits} bits (a guess)"


def eight_bit(values: NDArray[np.generic], *, bits: int) -> NDArray[np.uint8]:
    """The upper 8 of this many bits; fewer than 8 are scaled up.

    Args:
        values: from 0 to ``2**bits - 1``.
        bits: at least 1.
    """
    whole = np.asarray(values).astype(np.int64)
    return (whole >> (bits - 8) if bits >= 8 else whole * 255 // (2**bits - 1)).clip(0, 255).astype(np.uint8)


def several(frames: int) -> str:
    """The note on a file with several pictures."""
    return (
        f"{frames} frames or pages of which the first was taken (frame = N in the mapping takes another, gs_clip or "
        f"doppler_clip in its pair.images all)"
    )


def _too_large() -> str:
    return f"expected at most {LARGEST_PX // 1_000_000} million pixels, it has more, and no ultrasound picture has"


def _one(pages: int, frame: int | None) -> int:
    if frame is not None and frame > pages:
        raise DataError(f"expected at least {frame} pictures in the file, got {pages}")
    return (frame or 1) - 1


def _decode(content: bytes, *, mode: str, chosen: Callable[[int], Sequence[int]]) -> tuple[Decoded, ...]:
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        pages = list(_pages(opened))
        return tuple(
            _page(opened, content, pages[number], mode=mode, pages=len(pages))
            for number in chosen(len(pages))
        )


def _page(opened: Image.Image, content: bytes, index: int, *, mode: str, pages: int) -> Decoded:
    _go_to(opened, index)
    rawmode = _rawmode(opened)
    opened.load()
    low = _low_bytes(content, index) if ";16" in rawmode and opened.mode in ("RGB", "RGBA") else None
    picture, notes = _in_eight_bits(opened, content, rawmode, low)
    turned, unreadable = _upright(picture, opened)
    notes += [unreadable] if unreadable else []
    # what is of the mode already would be the file's own picture, which goes on to the next page
    image = turned.convert(mode) if turned.mode != mode else turned.copy()
    return Decoded(image=image, frames=pages, notes=tuple(notes))


def _pages(opened: Image.Image) -> Iterator[int]:
    """Indices of the file's pictures: a TIFF's smaller copies and masks are none."""
    frames = int(getattr(opened, "n_frames", 1))
    for index in range(frames):
        if isinstance(opened, TiffImageFile) and frames > 1:
            opened.seek(index)
            if int(opened.tag_v2.get(_TAG_SUBFILE, 0)) & _NO_PAGE:
                continue
        yield index


def _go_to(opened: Image.Image, index: int) -> None:
    if index or isinstance(opened, TiffImageFile):
        opened.seek(index)
    if opened.width * opened.height > LARGEST_PX:
        raise DataError(_too_large())


def _rawmode(opened: Image.Image) -> str:
    """Pillow's name of how pixels are stored, before they are loaded."""
    tiles = getattr(opened, "tile", ())
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _low_bytes(content: bytes, index: int) -> UInt8[np.ndarray, "h w c"] | None:
    """The lower bytes of 16-bit colour, of which Pillow keeps the upper: read in the other byte order.

    ``None`` where Pillow has no other order, which is so of grey with transparency.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as again:
        _go_to(again, index)
        again.tile = [tile._replace(args=_other_order(tile.args)) for tile in again.tile]
        try:
            again.load()
        except (ValueError, OSError):
            return None
        return np.asarray(again)


def _other_order(args: tuple[Any, ...] | str | None) -> tuple[Any, ...] | str:
    """Pillow's arguments of a decoder, for the other byte order."""
    if isinstance(args, tuple):
        return (_other_order(str(args[0])), *args[1:])
    rawmode = str(args)
    return rawmode[:-1] + _OTHER_BYTE.get(rawmode[-1:], "")


def _in_eight_bits(
    opened: Image.Image, content: bytes, rawmode: str, low: UInt8[np.ndarray, "h w c"] | None
) -> tuple[Image.Image, list[str]]:
    if opened.mode == "F":
        raise DataError(
            "expected 8 or 16 bits per channel, its pixels are floating-point numbers, whose range is not known"
        )
    if ";16" in rawmode and opened.mode in ("RGB", "RGBA"):
        upper = np.asarray(opened)[..., :3].astype(np.int64)
        if low is None and upper.max() * 256 < 2 ** DEPTHS[-2]:
            raise DataError(
                "expected 8 bits, or no transparency: of its 16 bits per channel few are used, and which is not known"
            )
        values = upper * 256 + (0 if low is None else low[..., :3])
    elif opened.mode.startswith("I"):
        values = np.asarray(opened).astype(np.int64)
    else:
        return opened, []
    if values.min() < 0 or values.max() >= 2 ** DEPTHS[-1]:
        raise DataError(
            "expected 8 or 16 bits per channel, its pixels have 32 or a sign, so that their range is not known"
        )
    bits, note = depth(int(values.max()), declared=_declared_bits(opened, content))
    if isinstance(opened, TiffImageFile) and opened.tag_v2.get(_TAG_PHOTOMETRIC) == 0:
        values = 2**bits - 1 - values  # white is zero, which Pillow heeds in 8 bits alone
    return Image.fromarray(eight_bit(values, bits=bits)), [note] if note else []


def _declared_bits(opened: Image.Image, content: bytes) -> int | None:
    if not isinstance(opened, TiffImageFile):
        return _significant_bits(content) if opened.format == "PNG" else None
    bits = int(min(opened.tag_v2.get(_TAG_BITS, (DEPTHS[-1],))))
    largest = opened.tag_v2.get(_TAG_MAX_VALUE, 0)
    said = int(max(largest) if isinstance(largest, tuple) else largest).bit_length()
    return min(bits, said or bits)


def _significant_bits(png: bytes) -> int | None:
    """What PNG's ``sBIT`` says: the most of its channels."""
    at = 8
    while at + 8 <= len(png):
        length, name = int.from_bytes(png[at : at + 4]), png[at + 4 : at + 8]
        if name == b"sBIT" and length:
            return max(png[at + 8 : at + 8 + length], default=0) or None
        if name == b"IDAT":
            return None
        at += length + 12
    return None


def _upright(picture: Image.Image, opened: Image.Image) -> tuple[Image.Image, str]:
    """Turned as the file says (a TIFF is by Pillow when it is loaded), and a note where that cannot be read."""
    if isinstance(opened, TiffImageFile):
        return picture, ""
    try:
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above: EXIF is damaged more often than pixels are
        return picture, "EXIF that cannot be read, taken as it is stored, which may be turned"
    if picture is not opened:
        picture.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(picture), ""
