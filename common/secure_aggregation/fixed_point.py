"""Real numbers as whole ones, so that masks cancel exactly and a patient's weight in a sum is bounded exactly.

Two kinds of sums:

* **Private** (:func:`quantise`): every patient's clipped gradient is rounded to ``norm_steps`` grid steps per
  clipping norm and clipped once more on the integers. A site's vector is the sum of such rows and its share of noise.
* **Weighted** (:class:`Weighted`): ``num_examples`` times an update, and ``num_examples`` itself as one more number.

**Guarantees.** After :func:`quantise` no row is longer than ``norm_steps``, in whole numbers, whatever came in; so a
patient changes the sum by at most that. :func:`needed_bits` gives a ring in which no sum over the sites wraps
around: never, as it counts the largest noise that the sampler gives (40 standard deviations; beyond lies exp(-800)
of the mass).

=====================================  ==================================================================
case                                   answer
=====================================  ==================================================================
a patient's row is not finite          zeros, as in the private step
a row becomes longer by rounding       shortened in whole numbers until it fits
an update is not finite                refused
a number that the ring cannot hold     refused, before it is masked
=====================================  ==================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from common.errors import ConfigurationError, UpdateError
from common.secure_aggregation.masks import Ring, dtype

LARGEST_NORM_STEPS = 2**30
"""Products of a number and a norm then fit into 63 bits."""
FINEST = 2**24
"""Steps that an update's range is divided into at most: float32 has no finer ones."""


def quantise(
    rows: Float64[np.ndarray, "rows length"], *, norm: float | int, norm_steps: int
) -> Int64[np.ndarray, "rows length"]:
    """Clipped vectors on a grid of ``norm / norm_steps``, each rounded to nearest, then clipped on the integers.

    Args:
        rows: one vector per patient, clipped to ``norm``; what is not will be.
        norm: the clipping norm, > 0.
        norm_steps: the same in grid steps, 1 .. 2^30.

    Returns:
        Rows of a Euclidean length of at most ``norm_steps``, exactly.

    Raises:
        ConfigurationError: for a norm out of range.
    """
    if not (0 < norm < math.inf and 1 <= norm_steps <= LARGEST_NORM_STEPS):
        raise ConfigurationError(
            f"Expected a norm > 0 of 1..{LARGEST_NORM_STEPS} grid steps, got {norm} of {norm_steps}"
        )
    finite = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0.0)
    steps = np.rint(np.clip(finite, -norm, norm) * (norm_steps / norm)).astype(np.int64)
    bounded = np.clip(steps, -norm_steps, norm_steps)
    return np.stack([_shortened(row, norm_steps) for row in bounded]) if len(bounded) else bounded


def squared_norm(row: Int64[np.ndarray, " length"]) -> int:
    """The sum of squares as a whole number, exact for absolute values below 2^31."""
    size = np.abs(row).astype(np.uint64)
    high, low = size >> np.uint64(16), size & np.uint64(2**16 - 1)
    return (int((high * high).sum()) << 32) + (int((high * low).sum()) << 17) + int((low * low).sum())


def needed_bits(*, sites: int, largest: int) -> int:
    """The ring for a sum over ``sites`` sites of numbers from ``-largest`` to ``largest``: 32 or 64.

    ``largest`` is the bound of one site's numbers: for a private sum ``patients * norm_steps`` and the largest noise
    (:func:`common.privacy.mechanism.noise_shares.largest_noise`), for a weighted one :attr:`Weighted.largest`.

    Raises:
        ConfigurationError: if neither is enough.
    """
    for bits in (32, 64):
        if sites * largest < 2 ** (bits - 1):
            return bits
    raise ConfigurationError(
        f"Expected a sum that fits into 64 bits, got {sites} sites with numbers up to {largest}: choose fewer grid "
        f"steps per clipping norm"
    )


def to_ring(values: Int64[np.ndarray, " length"], *, bits: int) -> Ring:
    """Signed numbers modulo 2^bits.

    Raises:
        UpdateError: if one does not fit.
    """
    if bits == 32 and len(values) and not -(2**31) <= int(values.min()) <= int(values.max()) < 2**31:
        raise UpdateError(f"Expected numbers that fit into 32 bits, got one of {int(np.abs(values).max())}")
    return values.astype(np.uint64).astype(dtype(bits), copy=False)


def centred(values: Ring) -> Int64[np.ndarray, " length"]:
    """Undo :func:`to_ring`."""
    signed = values.view(np.int32 if values.dtype == np.uint32 else np.int64)
    numbers: Int64[np.ndarray, " length"] = signed.astype(np.int64)
    return numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """How updates that are weighted by their numbers of examples become whole numbers.

    Attributes:
        largest_update: numbers of an update are clipped to this range, > 0.
        most_examples: the largest weight of a site, >= 1.
        sites: how many there are at most.
        bits: of the ring, 32 or 64.

    Raises:
        ConfigurationError: if the ring is too small for 256 steps.
    """

    largest_update: float | int
    most_examples: int
    sites: int
    bits: int

    def __post_init__(self) -> None:
        if not 0 < self.largest_update < math.inf or self.most_examples < 1 or self.sites < 1:
            raise ConfigurationError(
                f"Expected largest_update > 0, most_examples >= 1 and sites >= 1, got {self.largest_update}, "
                f"{self.most_examples} and {self.sites}"
            )
        if self.steps < 256:
            raise ConfigurationError(
                f"Expected at least 256 steps for an update, got {self.steps} with {self.sites} sites of up to "
                f"{self.most_examples} examples in {self.bits} bits: use 64 bits"
            )

    @property
    def steps(self) -> int:
        """Grid steps from 0 to ``largest_update``: as many as no sum can overflow, at most 2^24."""
        room: int = (2 ** (self.bits - 1) - 1) // (self.sites * self.most_examples)
        return min(FINEST, room)

    @property
    def grid(self) -> float:
        """One step, in units of the update."""
        return self.largest_update / self.steps

    @property
    def largest(self) -> int:
        """Bound of a site's numbers."""
        return self.most_examples * self.steps

    def encode(self, update: np.ndarray, *, num_examples: int) -> Int64[np.ndarray, " length_and_one"]:
        """``num_examples`` times the rounded update, and ``num_examples`` at the end.

        Raises:
            UpdateError: if the update is not finite, or there are more examples than agreed.
        """
        if not 0 <= num_examples <= self.most_examples:
            raise UpdateError(f"Expected 0..{self.most_examples} examples, got {num_examples}")
        if not np.isfinite(update).all():
            raise UpdateError("Expected a finite update")
        clipped = np.clip(update.astype(np.float64), -self.largest_update, self.largest_update)
        steps = np.rint(clipped * (self.steps / self.largest_update)).astype(np.int64)
        vector: Int64[np.ndarray, " length_and_one"] = np.append(steps * num_examples, np.int64(num_examples))
        return vector

    def mean(self, total: Int64[np.ndarray, " length_and_one"]) -> tuple[Float64[np.ndarray, " length"], int]:
        """The weighted mean of the updates, and the number of examples of all sites.

        Raises:
            UpdateError: if no site had an example.
        """
        examples = int(total[-1])
        if examples < 1:
            raise UpdateError(f"Expected a sum over at least one example, got {examples}")
        mean: Float64[np.ndarray, " length"] = total[:-1] * (self.grid / examples)
        return mean, examples


def _shortened(row: Int64[np.ndarray, " length"], norm_steps: int) -> Int64[np.ndarray, " length"]:
    """The row itself, or a multiple below 1 of it, rounded, that is not longer than ``norm_steps``."""
    square, limit = squared_norm(row), norm_steps * norm_steps
    if square <= limit:
        return row
    length = math.isqrt(square - 1) + 1
    size, sign = np.abs(row), np.sign(row)
    for less in (0, 1, 2, 4, 8, 16):
        target = max(norm_steps - less, 0)
        nearest: Int64[np.ndarray, " length"] = (2 * size * target + length) // (2 * length) * sign
        if squared_norm(nearest) <= limit:
            return nearest
    truncated: Int64[np.ndarray, " length"] = size * norm_steps // length * sign
    return truncated
