"""One private step: every patient's gradient clipped over all heads as one vector, summed, noised.

Several heads (tasks x members of the ensemble) are **one** release: concatenated, clipped once, one noise. A step
costs one :class:`~common.privacy.accounting.accounting.PrivateSteps` whatever their number.

**Formal guarantees**

* *Sensitivity.* Adding or removing one patient, with all else equal, changes the sum before noise by at most
  ``max_grad_norm`` in the Euclidean norm over all heads. It holds for any data and weights, whatever is wrong with
  them.
* *Noise.* Gaussian of standard deviation ``noise_multiplier * max_grad_norm`` in every coordinate, independent of
  the data and of who was sampled, from ChaCha20 under this step's entropy.
* *Sampling.* Each patient takes part with probability ``sample_rate``, independently of everybody else.
* *Output.* The noised sum over ``sample_rate * patients``, a public constant: never the number who took part.

==========================================  =================================================
case                                        answer
==========================================  =================================================
nobody sampled, or no patients at all       noise alone
a patient's gradient is not finite          that patient counts as zero
the weights are not finite                  every patient counts as zero: noise alone
a gradient longer than the clipping norm    scaled to it
a shorter one                               as it is
==========================================  =================================================

Floats: the losses are computed in float32; norms, scales and sums in float64, from the same float32 factors, with
room for rounding (:mod:`common.privacy.mechanism.gaussian_release`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from common.errors import ConfigurationError
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.mechanism import gaussian_release
from common.privacy.mechanism.heads import Heads, LayerGradients, patient_gradients
from common.privacy.mechanism.noise import KeyStream

NUMBERS_AT_ONCE = 2**17
"""Features that are widened to float64 together: a megabyte, which stays in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """A private step's parameters; all of them public.

    Attributes:
        max_grad_norm: C > 0.
        noise_multiplier: standard deviation of the noise over C, > 0.
        sample_rate: q in (0, 1].
        patients: N >= 1, a fixed number near that of the patients; it only scales.

    Raises:
        ConfigurationError: for values out of range.
    """

    max_grad_norm: float | int
    noise_multiplier: float | int
    sample_rate: float | int
    patients: int

    def __post_init__(self) -> None:
        self.cost()
        if not 0 < self.max_grad_norm < math.inf or self.patients < 1:
            raise ConfigurationError(
                f"Expected max_grad_norm > 0 and patients >= 1, got {self.max_grad_norm} and {self.patients}"
            )

    @classmethod
    def of(cls, steps: PrivateSteps, *, max_grad_norm: float | int, patients: int) -> StepSettings:
        """Each of the steps that are booked: it is drawn with the very numbers that are debited.

        Raises:
            ConfigurationError: for values out of range.
        """
        return cls(
            max_grad_norm=max_grad_norm,
            noise_multiplier=steps.noise_multiplier,
            sample_rate=steps.sample_rate,
            patients=patients,
        )

    def cost(self) -> PrivateSteps:
        """What one step is booked as."""
        return PrivateSteps(sample_rate=self.sample_rate, noise_multiplier=self.noise_multiplier, count=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSum:
    """The sum of clipped gradients: not private.

    Attributes:
        total: over all heads in their order.
        norms: each patient's before clipping; nan where the gradient is not finite.
    """

    total: Float64[Tensor, " size"]
    norms: Float64[Tensor, " patients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisedGradient:
    """What a private step gave.

    Attributes:
        gradient: **the only part that may leave the site**.
        sampled: how many patients took part.
        not_finite: how many of them counted as zero.
        largest_norm: of a clipped gradient; 0 if nobody took part.
        noise_std: of the noise in the gradient's units.
    """

    gradient: Float32[Tensor, " size"]
    sampled: int
    not_finite: int
    largest_norm: float
    noise_std: float


def private_gradient(
    weights: Float32[Tensor, " size"], heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    """One private step's gradient of the mean loss over patients.

    Args:
        weights: of all heads, one after the other.
        heads: with the data of all patients who may be sampled.
        settings: public parameters.
        entropy: 32 bytes from the operating system, for this step only; also after a crash.

    Raises:
        ConfigurationError: for heads that disagree about their patients, weights of another length, bad entropy.
    """
    chosen = sample(heads, settings.sample_rate, stream=KeyStream(entropy, "sampling"))
    summed = clipped_sum(weights, chosen, max_norm=gaussian_release.clipping_norm(settings.max_grad_norm))
    return noised(summed, settings, entropy=entropy)


def noised(summed: ClippedSum, settings: StepSettings, *, entropy: bytes) -> NoisedGradient:
    """The gradient that may leave: the sum with noise, over the constant denominator.

    Args:
        summed: each patient clipped to :func:`.gaussian_release.clipping_norm`.
        settings: public parameters.
        entropy: of this step.

    Raises:
        ConfigurationError: for bad entropy.
    """
    released = gaussian_release.release(
        summed.total.numpy(),
        max_grad_norm=settings.max_grad_norm,
        noise_multiplier=settings.noise_multiplier,
        stream=KeyStream(entropy, "noise"),
    )
    expected = settings.sample_rate * settings.patients
    finite = summed.norms[summed.norms.isfinite()]
    largest = float(finite.max()) if len(finite) else 0.0
    return NoisedGradient(
        gradient=torch.from_numpy((released / expected).astype(np.float32)),
        sampled=len(summed.norms),
        not_finite=len(summed.norms) - len(finite),
        largest_norm=min(largest, settings.max_grad_norm),
        noise_std=settings.noise_multiplier * settings.max_grad_norm / expected,
    )


def sample(heads: Sequence[Heads], sample_rate: float | int, *, stream: KeyStream) -> list[Heads]:
    """The heads with the patients who take part: each with the same probability, independently.

    Raises:
        ConfigurationError: without a head, or if heads have other numbers of patients.
    """
    counts = {some.rows.patients for some in heads}
    if len(counts) != 1:
        raise ConfigurationError(f"Expected heads with the same patients, got numbers {sorted(counts)}")
    if sample_rate == 1:
        return list(heads)
    taken = stream.bernoulli(counts.pop(), probability=sample_rate)
    chosen: Int64[Tensor, " chosen"] = torch.from_numpy(np.flatnonzero(taken))
    return [replace(some, rows=some.rows.of(chosen)) for some in heads]


@torch.no_grad()
def clipped_sum(
    weights: Float32[Tensor, " size"], heads: Sequence[Heads], *, max_norm: float | int
) -> ClippedSum:
    """Sum over patients of the gradient over all heads, each patient's clipped to ``max_norm``.

    Raises:
        ConfigurationError: for weights of another length.
    """
    clipped = _clipped(weights, heads, max_norm=max_norm)
    parts = [
        torch.cat([_scaled_sum(layer, clipped.scale, clipped.finite) for layer in some], dim=1)
        for some in clipped.factors
    ]
    return ClippedSum(
        total=torch.cat([part.flatten() for part in parts]),
        norms=torch.where(clipped.finite, clipped.norms, torch.nan),
    )


@torch.no_grad()
def clipped_each(
    weights: Float32[Tensor, " size"], heads: Sequence[Heads], *, max_norm: float | int
) -> Iterator[Float64[Tensor, " size"]]:
    """Every patient's gradient over all heads, clipped to ``max_norm``: what :func:`clipped_sum` adds up.

    Raises:
        ConfigurationError: for weights of another length.
    """
    clipped = _clipped(weights, heads, max_norm=max_norm)
    for patient in range(len(clipped.norms)):
        one = slice(patient, patient + 1)
        scale, finite = clipped.scale[one], clipped.finite[one]
        layers = [[_of(layer, one) for layer in some] for some in clipped.factors]
        parts = [torch.cat([_scaled_sum(layer, scale, finite) for layer in some], dim=1) for some in layers]
        yield torch.cat([part.flatten() for part in parts])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clipped:
    """Every patient's gradient in factors, and by what it is scaled."""

    factors: Sequence[Sequence[LayerGradients]]
    norms: Float64[Tensor, " patients"]
    finite: Bool[Tensor, " patients"]
    scale: Float64[Tensor, " patients"]


def _clipped(weights: Float32[Tensor, " size"], heads: Sequence[Heads], *, max_norm: float | int) -> _Clipped:
    sizes = [some.size for some in heads]
    if len(weights) != sum(sizes):
        raise ConfigurationError(f"Expected {sum(sizes)} weights for these heads, got {len(weights)}")
    factors = [patient_gradients(part, some) for part, some in zip(weights.split(sizes), heads, strict=True)]
    squares = [_squared_norms(layer) for some in factors for layer in some]
    norms = torch.stack(squares).sum(0).sqrt()
    finite = norms.isfinite()
    scale = torch.where(finite, (max_norm / norms).clamp(max=1.0), 0.0)
    return _Clipped(factors=factors, norms=norms, finite=finite, scale=scale)


def _of(layer: LayerGradients, patients: slice) -> LayerGradients:
    return LayerGradients(
        inputs=layer.inputs[:, patients], errors=layer.errors[:, patients], gram=layer.gram[:, patients]
    )


def _squared_norms(layer: LayerGradients) -> Float64[Tensor, " patients"]:
    """Squared norm over all heads of sum_r e_r x (i_r, 1) from inner products, rounded up.

    The last term outweighs the rounding of the first where large rows cancel: a norm is never understated.
    """
    errors = layer.errors.double()
    products = (errors @ errors.mT).mul_(layer.gram + 1)
    upper = products.diagonal(dim1=2, dim2=3).sum((0, 2)) * products.shape[2]
    return products.sum((0, 2, 3)).clamp_(min=0) + 1e-12 * upper


def _scaled_sum(
    layer: LayerGradients, scale: Float64[Tensor, " patients"], finite: Bool[Tensor, " patients"]
) -> Float64[Tensor, "heads size"]:
    """Gradients of each head's weights and biases, flat, of the patients together."""
    errors, inputs = layer.errors, layer.inputs
    if not bool(finite.all()):  # zero times nan is nan
        keep = finite[:, None, None]
        errors, inputs = torch.where(keep, errors, 0.0), torch.where(keep, inputs, 0.0)
    scaled = (errors * scale[:, None, None]).flatten(1, 2)
    weight = errors.new_zeros(len(errors), errors.shape[3], inputs.shape[3], dtype=torch.float64)
    rows = NUMBERS_AT_ONCE // max(1, inputs.shape[3]) or 1
    for sums, factors, read in zip(weight, scaled, inputs.flatten(1, 2), strict=True):
        for some, wide in zip(factors.split(rows), read.split(rows), strict=True):
            sums.addmm_(some.mT, wide.double())
    return torch.cat([weight.flatten(1), scaled.sum(1)], dim=1)
