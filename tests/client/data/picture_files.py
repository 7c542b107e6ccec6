"""A factory of PNG and TIFF files that Pillow reads and does not write: 16-bit colour, declared depths, odd tags."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.uint16]
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def png16(
    values: Values,
    *,
    significant: int | None = None,
    chunks: Mapping[bytes, bytes] | None = None,
    claimed: tuple[int, int] | None = None,
) -> bytes:
    """A PNG of 16 bits per channel.

    Args:
        values: ``(h, w)`` or ``(h, w, channels)``: grey, grey with alpha, RGB, RGBA.
        significant: what ``sBIT`` says.
        chunks: further ones, before the pixels.
        claimed: width and height that its header says in place of the true ones.
    """
    planes = values[..., None] if values.ndim == 2 else values
    height, width, channels = planes.shape
    header = struct.pack(">IIBBBBB", *(claimed or (width, height)), 16, _COLOUR_TYPES[channels], 0, 0, 0)
    rows = planes.astype(">u2").reshape(height, -1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    more = dict(chunks or {})
    if significant is not None:
        more[b"sBIT"] = bytes([significant] * channels)
    parts = [(b"IHDR", header), *more.items(), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, *zip(*parts, strict=True)))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff(
    pixels: bytes, size: tuple[int, int], *, bits: int = 16, channels: int = 1, order: str = "<",
    tags: Mapping[int, int] | None = None,
) -> bytes:  # fmt: skip
    """An uncompressed TIFF of one strip.

    Args:
        pixels: as they are stored.
        size: width and height.
        bits: per channel.
        channels: 1 or 3.
        order: ``<`` or ``>``.
        tags: further short ones, or others in place of the usual.
    """
    width, height = size
    after = 8 + len(pixels) + len(pixels) % 2
    usual = {256: width, 257: height, 258: bits, 259: 1, 262: 1 if channels == 1 else 2, 273: 8,
             277: channels, 278: height, 279: len(pixels)} | dict(tags or {})  # fmt: skip
    entries = []
    end = after + 2 + 12 * len(usual) + 4
    for tag, value in sorted(usual.items()):
        if tag == 258 and channels == 3:
            entries.append(struct.pack(order + "HHII", tag, 3, 3, end))
        else:
            entries.append(struct.pack(order + "HHII", tag, 4, 1, value))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", after)
    return (
        start + pixels + b"\0" * (len(pixels) % 2) + directory + struct.pack(order + "HHH", bits, bits, bits)
    )
