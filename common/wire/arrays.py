"""Arrays as raw little-endian bytes, by what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from flwr.app import Array

from common import bfloat16, blocks
from common.encodings import UPDATE_BITS, WEIGHT_BITS
from common.errors import UpdateError
from common.evaluation.histograms import BINS
from common.messages import Encoding, Histograms, Products, Rounded, RoundedUpdate, Weights
from common.secure_aggregation.masks import Ring

ARRAYS = (Weights, Rounded, RoundedUpdate, Histograms, Products, Ring)
"""Types of arrays that messages have."""
_BITS: Mapping[object, int] = {Rounded: WEIGHT_BITS, RoundedUpdate: UPDATE_BITS}
"""Of what may be rounded, in blocks."""
IN_BLOCKS = {f"int{bits}": bits for bits in _BITS.values()}
"""What arrays in blocks (:mod:`common.blocks`) are written as -> bits of a code."""
_KINDS: Mapping[object, str] = {Histograms: "int64", Products: "float64"}
"""Of arrays of two dimensions."""
_SHAPES: Mapping[object, str] = {Histograms: f"(classes, {BINS})", Products: "(rows, columns)"}
_WIDTHS = {"float32": 4, "float64": 8, "bfloat16": 2, "int64": 8, "uint32": 4, "uint64": 8}


def pack(values: np.ndarray, hint: object, encoding: Encoding) -> Array:
    """An array as bytes.

    Args:
        values: the array.
        hint: its type, one of :data:`ARRAYS`.
        encoding: how it is written, if it may be rounded.
    """
    if hint in _BITS and encoding == "bfloat16":
        return Array("bfloat16", values.shape, "raw", bfloat16.encode(values).tobytes())
    if hint in _BITS and encoding == "int8_int4":
        return Array(_written(hint, encoding), values.shape, "raw", blocks.encode(values, bits=_BITS[hint]))
    kind = values.dtype.name if hint == Ring else _KINDS.get(hint, "float32")
    raw = values.astype(np.dtype(kind).newbyteorder("<"), copy=False).tobytes()
    return Array(kind, values.shape, "raw", raw)


def unpack(array: Array, hint: object, encodings: Sequence[Encoding]) -> np.ndarray:
    """Undo :func:`pack`; numbers are read where they lie.

    Args:
        array: as it came.
        hint: its type, one of :data:`ARRAYS`.
        encodings: how it may be written, if it may be rounded.

    Raises:
        UpdateError: if type, shape and bytes do not fit.
    """
    kinds: Sequence[str] = (_KINDS.get(hint, "float32"),)
    if hint in _BITS:
        kinds = [_written(hint, encoding) for encoding in get_args(Encoding)]
    elif hint == Ring:
        kinds = ("uint32", "uint64")
    shape = tuple(array.shape)
    fits = len(shape) == (2 if hint in _KINDS else 1) and (hint != Histograms or shape[1] == BINS)
    in_blocks = array.dtype in IN_BLOCKS
    size = len(array.data) if in_blocks else _WIDTHS.get(array.dtype, 0) * math.prod(shape)
    if array.stype != "raw" or array.dtype not in kinds or not fits or len(array.data) != size:
        wanted = _SHAPES.get(hint, "(numbers,)")
        raise UpdateError(
            f"Expected raw {' or '.join(kinds)} of the stated shape, {wanted}, got {array.dtype} {array.stype} "
            f"{shape}, {len(array.data)} bytes"
        )
    written = [_written(hint, encoding) for encoding in encodings] if hint in _BITS else kinds
    if array.dtype not in written:  # else a request's hash is not of what is computed
        raise UpdateError(f"Expected weights as {' or '.join(encodings)}, got them written otherwise")
    return read(array)


def read(array: Array) -> np.ndarray:
    """The numbers of an array of which :func:`unpack` found type, shape and bytes to fit.

    Raises:
        UpdateError: if bytes of blocks do not fit.
    """
    if array.dtype == "bfloat16":
        return bfloat16.decode(np.frombuffer(array.data, dtype="<u2"))
    if array.dtype in IN_BLOCKS:
        return blocks.decode(array.data, array.shape[0], bits=IN_BLOCKS[array.dtype])
    found = np.frombuffer(array.data, dtype=np.dtype(array.dtype).newbyteorder("<")).reshape(array.shape)
    return found.astype(array.dtype, copy=False)


def _written(hint: object, encoding: Encoding) -> str:
    """What an array that may be rounded is written as."""
    return f"int{_BITS[hint]}" if encoding == "int8_int4" else encoding
