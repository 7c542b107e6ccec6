"""Masks: ChaCha20 keystreams as numbers modulo 2^bits, added to a vector or taken away.

Numbers wrap around by themselves in unsigned arrays. A key is used for one mask only, so the nonce is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from jaxtyping import UInt32, UInt64

CHUNK_BYTES = 2**18
"""So much of the vector stays in the processor's cache while all masks are added to it."""

Ring: TypeAlias = UInt32[np.ndarray, " length"] | UInt64[np.ndarray, " length"]
"""Numbers modulo 2^32 or 2^64."""


def masked(vector: Ring, *, plus: Sequence[bytes], minus: Sequence[bytes]) -> Ring:
    """A vector with the masks of some keys added and of others taken away.

    Args:
        vector: is left as it is.
        plus: keys of 32 bytes.
        minus: the same.
    """
    result = vector.copy()
    signed = [(_stream(key), np.add) for key in plus] + [(_stream(key), np.subtract) for key in minus]
    zeros, stream = bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES)
    mask = np.frombuffer(stream, dtype=vector.dtype)
    for start in range(0, len(result), len(mask)):
        part = result[start : start + len(mask)]
        for cipher, add in signed:
            cipher.update_into(zeros, stream)
            add(part, mask[: len(part)], out=part)
    return result


def dtype(bits: int) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
    """The numbers of a ring of ``bits`` bits."""
    return np.dtype(np.uint32) if bits == 32 else np.dtype(np.uint64)


def _stream(key: bytes):  # type: ignore[no-untyped-def]
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
