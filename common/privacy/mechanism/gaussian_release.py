"""The Gaussian mechanism on a grid: what a site adds noise to, and how much room rounding takes.

The sum and the noise are both rounded to whole steps of one public grid, so a released number carries no trace of
the floats that it was made of. With an integer ``s``, ``s + round(noise)`` is ``round(s + noise)``: the release is
a Gaussian mechanism on the rounded sum, followed by rounding, which costs nothing.

**Guarantees.** Rounding moves the difference of two neighbouring sums by at most ``sqrt(size)`` grid steps. The grid
is so fine that this is at most ``ROOM`` of the clipping norm; :func:`clipping_norm` clips by that much tighter, and
what is accounted is exact.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from common.errors import ConfigurationError
from common.privacy.mechanism.noise import KeyStream

ROOM = 2.0**-12
"""Share of the clipping norm that is left to rounding."""


def clipping_norm(max_grad_norm: float | int) -> float:
    """What patients are clipped to, so that the rounded sum changes by at most ``max_grad_norm``."""
    return max_grad_norm * (
        1 - 2 * ROOM
    )  # once for the grid, once for float64 sums, whose share is far smaller


def grid_step(size: int, *, max_grad_norm: float | int) -> float:
    """The grid of a release of ``size`` numbers: a power of two, at most ROOM * C / sqrt(size)."""
    return 2.0 ** math.floor(math.log2(ROOM * max_grad_norm / math.sqrt(max(1, size))))


def release(
    total: Float64[np.ndarray, " size"],
    *,
    max_grad_norm: float | int,
    noise_multiplier: float | int,
    stream: KeyStream,
) -> Float64[np.ndarray, " size"]:
    """A sum with Gaussian noise, both on the grid.

    Args:
        total: sum over patients, each clipped to :func:`clipping_norm` over all numbers together; finite.
        max_grad_norm: C > 0, by which one patient can change the rounded sum.
        noise_multiplier: standard deviation of the noise over C, > 0.
        stream: of the purpose ``noise``, from fresh entropy.

    Raises:
        ConfigurationError: for a norm or multiplier that is not positive and finite, or a sum that is not finite.
    """
    if not (0 < max_grad_norm < math.inf and 0 < noise_multiplier < math.inf):
        raise ConfigurationError(
            f"Expected max_grad_norm and noise_multiplier > 0, got {max_grad_norm} and {noise_multiplier}"
        )
    if not np.isfinite(total).all():
        raise ConfigurationError("Expected a finite sum: gradients that are not finite count as zero")
    step = grid_step(total.size, max_grad_norm=max_grad_norm)
    noise = stream.gaussian(total.size) * (noise_multiplier * max_grad_norm / step)
    result: Float64[np.ndarray, " size"] = (np.rint(total / step) + np.rint(noise)) * step
    return result
