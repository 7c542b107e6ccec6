"""Randomness of private steps: a ChaCha20 keystream from fresh entropy, and what is drawn from it.

There is no seed. The caller hands in 32 bytes from the operating system, new ones at every step, and draws from a
stream of a stated purpose. General-purpose generators do not serve: torch's takes seeds modulo 2^32, so that all of
them can be tried in hours, and numpy's state follows from its outputs; whoever has the noise has the records.

**Guarantees**

* Two purposes of one step, and two steps, have independent streams (ChaCha20 as a pseudorandom function).
* :meth:`KeyStream.gaussian`: float64, from 64 random bits of radius and 64 of angle each; the tail ends at 9.4
  standard deviations, and 1e-20 of the normal's mass lies beyond. Which floats can be reached depends on the value
  that noise is added to, and betrays it (Mironov 2012, doi 10.1145/2382196.2382264): so releases go through
  :mod:`common.privacy.mechanism.gaussian_release`, whose results lie on a grid.
* :meth:`KeyStream.bernoulli`: independent, with the stated probability to 2^-53.

=================================  ======================================================================
case                               answer
=================================  ======================================================================
entropy that is not 32 bytes       refused: a number or a word is a seed
entropy of one repeated byte       refused: no operating system gives it
a count of 0                       an empty array
=================================  ======================================================================
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from jaxtyping import Bool, Float64, UInt64

from common.errors import ConfigurationError

ENTROPY_BYTES = 32
Purpose: TypeAlias = Literal["sampling", "noise", "discrete noise"]


class KeyStream:
    """The keystream of one purpose in one step.

    Args:
        entropy: 32 bytes from the operating system, used for one step only.
        purpose: what is drawn from it.

    Raises:
        ConfigurationError: for anything else than 32 bytes that look random.
    """

    def __init__(self, entropy: bytes, purpose: Purpose) -> None:
        if not isinstance(entropy, bytes) or len(entropy) != ENTROPY_BYTES or len(set(entropy)) == 1:
            raise ConfigurationError(
                f"Expected {ENTROPY_BYTES} fresh bytes from the operating system, got {type(entropy).__name__}: "
                f"noise has no seed"
            )
        nonce = bytes(4) + hashlib.blake2b(purpose.encode(), digest_size=12).digest()
        self._encryptor = Cipher(ChaCha20(entropy, nonce), mode=None).encryptor()

    def words(self, count: int) -> UInt64[np.ndarray, " count"]:
        """Uniform 64-bit words."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8").astype(np.uint64)

    def gaussian(self, count: int) -> Float64[np.ndarray, " count"]:
        """Independent standard normal values from pairs of uniform ones (Box and Muller 1958)."""
        pairs = (count + 1) // 2
        uniform = (self.words(2 * pairs).astype(np.float64) + 0.5) * 2.0**-64
        radius = np.sqrt(-2 * np.log(uniform[:pairs]))
        angle = (2 * math.pi) * uniform[pairs:]
        values: Float64[np.ndarray, " count"] = np.concatenate(
            [radius * np.cos(angle), radius * np.sin(angle)]
        )[:count]
        return values

    def bernoulli(self, count: int, *, probability: float | int) -> Bool[np.ndarray, " count"]:
        """Independent choices, true with ``probability`` in [0, 1]."""
        chosen: Bool[np.ndarray, " count"] = self.words(count) >> np.uint64(11) < np.uint64(
            round(probability * 2**53)
        )
        return chosen

    def below(self, bounds: UInt64[np.ndarray, " count"]) -> UInt64[np.ndarray, " count"]:
        """Uniform whole numbers 0 .. bound - 1, exactly, for bounds of 1 .. 2^63."""
        drawn = self.words(len(bounds))
        # Words from the last multiple of the bound on would make small numbers likelier.
        excess = (np.uint64(2**64 - 1) % bounds + np.uint64(1)) % bounds
        again = drawn > np.uint64(2**64 - 1) - excess
        while again.any():
            drawn[again] = self.words(int(again.sum()))
            again &= drawn > np.uint64(2**64 - 1) - excess
        rest: UInt64[np.ndarray, " count"] = drawn % bounds
        return rest
