"""Secret sharing (Shamir 1979, doi 10.1145/359168.359176): any ``threshold`` shares give a secret, fewer say nothing.

A secret of 32 bytes is the constant term of a polynomial of degree ``threshold - 1`` over the integers modulo a
prime just above 2^256; share number ``i`` is its value at ``i``. All other coefficients are uniform, so for fewer
shares every secret is equally likely.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NewType

from common.errors import VerificationError

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
COEFFICIENT_BYTES = 48
"""Reduced modulo the prime, this many uniform bytes are uniform to within 2^-127."""
DOMAIN = b"synofed shares 1\n"

Weights = NewType("Weights", Mapping[int, int])
"""Number of a share -> what it is multiplied with to give the secret."""


def split(secret: bytes, *, threshold: int, count: int, entropy: bytes) -> tuple[bytes, ...]:
    """Shares 1 to ``count`` of a secret, each of 33 bytes.

    Args:
        secret: 32 bytes.
        threshold: how many shares give the secret, 1 .. count.
        count: how many there are.
        entropy: 32 fresh bytes, used for this secret only.

    Raises:
        ValueError: for sizes out of range.
    """
    if len(secret) != SECRET_BYTES or len(entropy) != SECRET_BYTES or not 1 <= threshold <= count:
        raise ValueError(
            f"Expected 32 bytes of secret and entropy and 1 <= threshold <= count, got {threshold}, {count}"
        )
    drawn = hashlib.shake_256(DOMAIN + entropy).digest(COEFFICIENT_BYTES * (threshold - 1))
    higher = [
        int.from_bytes(drawn[at : at + COEFFICIENT_BYTES], "big") % PRIME
        for at in range(0, len(drawn), COEFFICIENT_BYTES)
    ]
    coefficients = [int.from_bytes(secret, "big"), *higher]
    return tuple(_value(coefficients, at).to_bytes(SHARE_BYTES, "big") for at in range(1, count + 1))


def weights(numbers: Sequence[int]) -> Weights:
    """Lagrange's weights at 0 for the shares of these numbers; the same for all secrets."""
    found = {}
    for number in numbers:
        above, below = 1, 1
        for other in numbers:
            if other != number:
                above = above * other % PRIME
                below = below * (other - number) % PRIME
        found[number] = above * pow(below, -1, PRIME) % PRIME
    return Weights(found)


def combine(shares: Mapping[int, bytes], by: Weights) -> bytes:
    """The secret from the shares of the numbers in ``by``.

    Raises:
        VerificationError: if they give none: one is missing or was changed. That shares fit together cannot be seen
            otherwise, so the caller compares the secret with what was committed to.
    """
    if not set(by) <= set(shares):
        raise VerificationError(f"Expected shares {sorted(by)}, got {sorted(shares)}")
    value = sum(int.from_bytes(shares[number], "big") * weight for number, weight in by.items()) % PRIME
    if value >= 2 ** (8 * SECRET_BYTES):
        raise VerificationError("Expected shares of one secret, got some that do not fit together")
    return value.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: Sequence[int], at: int) -> int:
    """Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * at + coefficient) % PRIME
    return value
