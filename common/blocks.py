"""Numbers in 8 or 4 bits: blocks of 64, each on an evenly spaced grid of its own, ``scale * code``.

The scale is bfloat16, the code a whole number of at most ``top`` (127 or 7), so that every product is exact in
float32 and a block's largest magnitude has the code ``top``: what was rounded once is written and read without loss.
Blocks with scales of their own are those of Dettmers et al. 2022 (arXiv:2110.02861), with evenly spaced codes.

Written are, little-endian: the scales of the first ``k`` blocks, their codes (of 4 bits the first of two numbers in
the lower half of a byte), then all further numbers as float32. ``k`` follows from the length. Coded are the leading
blocks that lie on a grid; from the first that does not, and of the last block if it is not full, numbers stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int8, Int16

from common import bfloat16
from common.errors import UpdateError

BLOCK = 64
"""Numbers that share a scale."""
SCALE_BYTES = 2
TOPS = {8: 127, 4: 7}
"""Bits -> the largest code."""
CHUNK = 1 << 12
"""Blocks that are worked on at once, so that what lies between stays small."""

Flat = Float32[np.ndarray, " numbers"]
Blocks = Float32[np.ndarray, "blocks 64"]
Codes = Int8[np.ndarray, "blocks 64"]
Scales = Float32[np.ndarray, " blocks"]


def size_bytes(size: int, coded: int, *, bits: int) -> int:
    """Bytes of ``size`` numbers, of which the full blocks of the first ``coded`` lie on grids."""
    blocks = coded // BLOCK
    return blocks * _block_bytes(bits) + 4 * (size - blocks * BLOCK)


def rounded(values: Flat, coded: int, *, bits: int) -> Flat:
    """The numbers with each full block of the first ``coded`` on its grid; all others as they are.

    Args:
        values: finite.
        coded: how many of them may be rounded.
        bits: 8 or 4.

    Returns:
        New numbers, within half a step of the old ones. A step is the block's largest magnitude over ``top``, rounded
        by at most 1/256; in blocks above 3.3e38 the largest numbers may be a step off. Blocks whose step is below
        1.2e-38 become zeros.
    """
    found = np.array(values, dtype=np.float32)
    for block in _chunks(found[: coded // BLOCK * BLOCK]):
        scales, codes = _coded(block, bits)
        block[:] = _decoded(scales, codes)
    return found


def encode(values: Flat, *, bits: int) -> bytes:
    """The numbers as bytes, without loss; see the module."""
    values = np.ascontiguousarray(values, dtype="<f4")
    all_scales, all_codes = [], []
    for block in _chunks(values[: len(values) // BLOCK * BLOCK]):
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite lies on no grid
            scales, codes = _coded(block, bits)
            whole = (_decoded(scales, codes) != block).any(axis=1)
        count = int(whole.argmax()) if whole.any() else len(block)
        all_scales.append(bfloat16.encode(scales[:count]).tobytes())
        all_codes.append(_packed(codes[:count], bits))
        if count < len(block):
            break
    blocks = sum(map(len, all_scales)) // SCALE_BYTES
    return b"".join([*all_scales, *all_codes, values[blocks * BLOCK :].tobytes()])


def decode(data: bytes, size: int, *, bits: int) -> Flat:
    """Undo :func:`encode`.

    Args:
        data: as it came.
        size: how many numbers there should be.
        bits: 8 or 4.

    Raises:
        UpdateError: if the length is of no such numbers, or scales or codes are none that :func:`encode` writes.
    """
    saved = 4 * BLOCK - _block_bytes(bits)
    blocks, rest = divmod(4 * size - len(data), saved)
    if rest or not 0 <= blocks <= size // BLOCK:
        raise UpdateError(
            f"Expected {size} numbers in blocks of {BLOCK} of {bits} bits, got {len(data)} bytes, which no number "
            f"of blocks gives"
        )
    found = np.empty(size, dtype=np.float32)
    start, stop = blocks * SCALE_BYTES, blocks * _block_bytes(bits)
    top = TOPS[bits]
    written = np.frombuffer(data[:start], dtype="<u2")
    scales, most = bfloat16.decode(written), _largest_scale(top)
    if not ((written == 0) | ((scales >= np.finfo(np.float32).tiny) & (scales <= most))).all():
        raise UpdateError(
            f"Expected scales of blocks to be 0 or from 1.2e-38 to {most:.3g}, got different ones"
        )
    codes = _unpacked(data[start:stop], bits)
    if not (_largest(codes) == np.where(scales > 0, top, 0)).all():
        raise UpdateError(
            f"Expected codes of {bits} bits of which a block's largest is {top}, got different ones"
        )
    found[: blocks * BLOCK] = _decoded(scales, codes).ravel()
    found[blocks * BLOCK :] = np.frombuffer(data[stop:], dtype="<f4")
    return found


def _block_bytes(bits: int) -> int:
    return SCALE_BYTES + BLOCK * bits // 8


def _chunks(full: Flat) -> Iterator[Blocks]:
    """Views of full blocks, a block a row."""
    rows = full.reshape(-1, BLOCK)
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _coded(block: Blocks, bits: int) -> tuple[Scales, Codes]:
    """Scales and codes nearest to the numbers; of rows that are not finite, any."""
    top = TOPS[bits]
    exact = np.abs(block).max(axis=1) / np.float32(top)
    scales = np.minimum(bfloat16.decode(bfloat16.encode(exact)), _largest_scale(top))
    scales[scales < np.finfo(np.float32).tiny] = 0.0
    codes = block / np.where(scales > 0, scales, np.float32(np.inf))[:, None]
    np.rint(codes, out=codes)
    np.nan_to_num(codes, copy=False, nan=0.0)
    return scales, np.clip(codes, -top, top, out=codes).astype(np.int8)


def _largest_scale(top: int) -> np.float32:
    """The largest bfloat16 of which ``top`` is still finite."""
    bits = (np.array([np.finfo(np.float32).max / top], dtype="<f4").view("<u4") >> 16).astype("<u2")
    return np.float32(bfloat16.decode(bits)[0])


def _decoded(scales: Scales, codes: Codes) -> Blocks:
    values: Blocks = codes * scales[:, None]
    return values


def _largest(codes: Codes) -> Int16[np.ndarray, " blocks"]:
    """Each row's largest magnitude, up to 128."""
    largest: Int16[np.ndarray, " blocks"] = np.abs(codes.astype(np.int16)).max(axis=1, initial=0)
    return largest


def _packed(codes: Codes, bits: int) -> bytes:
    if bits == 8:
        return codes.tobytes()
    nibbles = codes.view(np.uint8).reshape(-1, 2)
    return ((nibbles[:, 0] & 0x0F) | (nibbles[:, 1] << 4)).tobytes()


def _unpacked(data: bytes, bits: int) -> Codes:
    if bits == 8:
        return np.frombuffer(data, dtype=np.int8).reshape(-1, BLOCK)
    pairs = np.frombuffer(data, dtype=np.uint8)
    codes = np.empty((len(pairs), 2), dtype=np.int8)
    codes[:, 0] = (pairs << 4).view(np.int8) >> 4
    codes[:, 1] = pairs.view(np.int8) >> 4
    return codes.reshape(-1, BLOCK)
