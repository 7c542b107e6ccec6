"""A private sum in whole numbers: what a site puts under its masks, and what the centre makes of the sum.

Grid, ring and noise follow from public settings, the same at every site and at the centre. The grid is the finest
one for which a share of the noise is drawn at once: its standard deviation is then nearly 4,096 grid steps. For long
vectors it is finer, so that a flat gradient still has eight steps in each number, and noise is drawn several times.

**Guarantees.** A patient changes a site's vector by at most ``max_grad_norm`` in the Euclidean norm over all numbers,
in exact arithmetic, whatever the gradients hold. The sum over at least ``survivors`` sites carries noise of which
``colluders`` of them together know too little to fall below ``noise_multiplier * max_grad_norm``. It costs one
:class:`~common.privacy.accounting.accounting.PrivateSteps`, and the delta of :meth:`PrivateSum.delta_correction`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from common.errors import ConfigurationError
from common.privacy.mechanism import noise_shares
from common.secure_aggregation.fixed_point import needed_bits, quantise
from common.secure_aggregation.terms import Terms

ROOM = 16
"""How many times the stated number of patients a site may have before its numbers could leave the ring."""


LEAST_STEPS = 8
"""Grid steps in each number of a gradient of the clipping norm's length that is spread evenly."""
MOST_DRAWS = 256
"""So often may a site draw noise for one vector; each takes about a microsecond a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSum:
    """The public settings of a sum.

    Attributes:
        max_grad_norm: C > 0, of one patient.
        noise_multiplier: of the whole sum, > 0.
        patients: N of a site, a public number near the real one.
        sites: S.
        survivors: U.
        colluders: t.
        length: numbers in a vector.

    Raises:
        ConfigurationError: for values out of range, or noise that no grid can hold.
    """

    max_grad_norm: float | int
    noise_multiplier: float | int
    patients: int
    sites: int
    survivors: int
    colluders: int
    length: int

    def __post_init__(self) -> None:
        if not self.max_grad_norm > 0 or self.patients < 1:
            raise ConfigurationError(
                f"Expected max_grad_norm > 0 and patients >= 1, got {self.max_grad_norm} and {self.patients}"
            )
        self.terms()
        if noise_shares.draws(self.variance("full")) > MOST_DRAWS:
            raise ConfigurationError(
                f"Expected noise of at most {MOST_DRAWS} draws, got {noise_shares.draws(self.variance('full'))} for "
                f"noise_multiplier {self.noise_multiplier} and {self.length} numbers: train fewer numbers"
            )

    @property
    def norm_steps(self) -> int:
        """The clipping norm in grid steps."""
        finest = noise_shares.finest_norm_steps(self._multiplier("share"))
        return max(finest, math.ceil(LEAST_STEPS * math.sqrt(self.length)))

    @property
    def grid(self) -> float:
        """One step, in units of the gradient."""
        return self.max_grad_norm / self.norm_steps

    def variance(self, noise: Literal["share", "full"]) -> int:
        """Variance in grid steps squared of a site's share of the noise, or of all of it."""
        return noise_shares.share_variance(self._multiplier(noise), norm_steps=self.norm_steps)

    def terms(self) -> Terms:
        """What all sites of the sum agree on."""
        largest = self._most + noise_shares.largest_noise(self.variance("full"))
        return Terms(
            sites=self.sites,
            survivors=self.survivors,
            colluders=self.colluders,
            length=self.length,
            bits=needed_bits(sites=self.sites, largest=largest),
        )

    def vector(
        self,
        gradients: Iterable[Float64[np.ndarray, " length"]],
        *,
        noise: Literal["share", "full"],
        entropy: bytes,
    ) -> Int64[np.ndarray, " length"]:
        """What a site puts under its masks.

        Args:
            gradients: one per patient who takes part, clipped to ``max_grad_norm``; none is as good as any.
            noise: a share, or all of it where too few peers are known.
            entropy: 32 fresh bytes from the operating system, for this attempt only.

        Raises:
            ConfigurationError: for more patients than the ring can hold, or entropy that is none.
        """
        total = np.zeros(self.length, np.int64)
        for gradient in gradients:
            total += quantise(gradient[None], norm=self.max_grad_norm, norm_steps=self.norm_steps)[0]
        if np.abs(total).max() > self._most:
            raise ConfigurationError(
                f"Expected at most {ROOM} times {self.patients} patients: state their number anew"
            )
        total += noise_shares.draw(self.length, variance=self.variance(noise), entropy=entropy)
        return total

    def gradient(
        self, total: Int64[np.ndarray, " length"], *, sample_rate: float | int, survivors: int
    ) -> Float64[np.ndarray, " length"]:
        """The mean gradient over the sites in a sum, by the constant ``sample_rate * patients`` of each."""
        mean: Float64[np.ndarray, " length"] = total * (self.grid / (sample_rate * self.patients * survivors))
        return mean

    def delta_correction(self, epsilon: float | int, *, rounds: int) -> float:
        """What whole numbers add to delta over all rounds at an epsilon that is accounted for Gaussians."""
        draws = self.sites * noise_shares.draws(self.variance("full"))
        return noise_shares.delta_correction(
            epsilon, rounds=rounds, length=self.length, shares=draws, variance=self.variance("share")
        )

    @property
    def _most(self) -> int:
        return ROOM * self.patients * self.norm_steps

    def _multiplier(self, noise: Literal["share", "full"]) -> float:
        return noise_shares.share_multiplier(
            self.noise_multiplier,
            survivors=self.survivors,
            colluders=self.colluders,
            known_peers=1 if noise == "share" else 0,
            minimum_peers=1,
            otherwise="full",
        )
