"""One private step of a whole network: patients' gradients from Opacus, each clipped as one vector.

Opacus's hooks (``GradSampleModule``) give the gradient of every picture; a patient's gradient is the mean over at
most ``images`` of that patient's exams. Sampling, clipping, noise and the constant denominator are those of
:mod:`common.privacy.mechanism.patient_step`: a step costs the same, whatever is trained. Opacus's own sampler,
optimiser and batch splitter are not used: they take exams for records, and their noise comes from a generator with
a seed.

**Formal guarantees**, beside those of :mod:`common.privacy.mechanism.patient_step`:

* *A patient's gradient is a function of that patient alone.* A pass holds one patient's pictures and nobody else's,
  so that (on a CPU) not even the last bit depends on who else takes part, whatever a network couples in a batch.
* *Nothing but parameters.* A network that has floating buffers, or a norm that keeps statistics, is refused.

===========================================  ================================================================
case                                         answer
===========================================  ================================================================
BatchNorm, also frozen or without weights    refused: it keeps or couples what it has seen; take GroupNorm
InstanceNorm that tracks statistics          refused
a floating buffer that would travel          refused
dropout, or other chance within the network  refused: it draws from a generator with a seed
layers that the hooks get wrong              refused: tried on public pictures, against automatic differentiation
a patient with more exams than ``images``    the first of them, in the order of the site's table
===========================================  ================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from opacus.grad_sample import GradSampleModule
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from common.errors import ConfigurationError
from common.privacy.mechanism import gaussian_release
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.patient_step import ClippedSum, NoisedGradient, StepSettings, noised
from common.training import memory
from common.training.flat_network import FlatNetwork

GRADIENT_BYTES = 2**28
"""Of pictures' gradients that are held at once; a larger network has fewer pictures a pass, at least one."""
PICTURES_AT_ONCE = 32
"""In a pass at most: the hooks need several times a plain pass's memory for each."""
HOOKS_TOLERANCE = 1e-3
"""How far the hooks' sum may lie from the gradient by automatic differentiation, over its norm."""
WRONG_HOOKS = (
    "Expected a network whose gradients Opacus computes picture by picture: build it of convolutions, linear layers "
    "and GroupNorm, without changes in place, not channels-last"
)

Pictures = Sequence[Float32[Tensor, "n ..."]]


class PictureGradients:
    """A network whose gradients are given picture by picture.

    Args:
        network: with its weights; in training mode from here on.
        example: public pictures of the right shape, at least one, to try the network on.

    Raises:
        ConfigurationError: for a network that cannot be trained so.
    """

    def __init__(self, network: FlatNetwork, *, example: Pictures) -> None:
        _refuse_statistics(network)
        self.network = network
        network.training_mode()
        expected = _reference(network, example)
        try:
            self._hooked: Callable[[Pictures], Tensor] = GradSampleModule(
                network.module, loss_reduction="sum"
            )
        except NotImplementedError as error:
            raise ConfigurationError(f"Expected a network that Opacus can train: {error!s:.200}") from None
        parameters = dict(network.module.named_parameters())
        self._parameters: Mapping[str, Any] = {name: parameters[name] for name, _ in network.layout.entries}
        self._refuse_wrong_hooks(example, expected)

    @property
    def size(self) -> int:
        """Length of a gradient: all parameters that train."""
        return self.network.layout.trained_size

    @property
    def pictures_at_once(self) -> int:
        """Pictures a pass, so that memory stays bounded."""
        return pictures_at_once(self.size)

    def of_patient(
        self,
        batches: Iterable[tuple[Pictures, Int64[Tensor, " n"]]],
        class_weights: Float32[Tensor, " classes"],
        *,
        exams: int,
    ) -> Float32[Tensor, " size"]:
        """The gradient of one patient's mean loss: weight(class) x cross-entropy.

        Args:
            batches: all of the patient's pictures with their classes, no more than ``pictures_at_once`` each.
            class_weights: public constants.
            exams: how many pictures the batches have together.
        """
        gradient = torch.zeros_like(self.network.trained.detach())
        for pictures, classes in batches:
            self._pass(pictures, classes, class_weights / exams, gradient)
        return gradient

    def _pass(self, pictures: Pictures, classes: Tensor, class_weights: Tensor, gradient: Tensor) -> None:
        """Add the pictures' gradients to ``gradient``."""
        # Opacus 1.6 unfolds convolutions' inputs as if they were contiguous: in channels-last it is wrong, and silent
        leaves = [picture.detach().contiguous().requires_grad_() for picture in pictures]
        loss = _loss(self._answers(leaves), classes, class_weights)
        torch.autograd.grad(loss, leaves, allow_unused=True)  # the hooks fire; nothing else is accumulated
        for name, view in self.network.layout.pieces(gradient):
            found = self._parameters[name].grad_sample
            if found is not None:
                view.add_(found.sum(0))
            self._parameters[name].grad_sample = None

    def _answers(self, pictures: Pictures) -> Tensor:
        with _OutOfPlace():
            return self._hooked(pictures)

    def _refuse_wrong_hooks(self, example: Pictures, expected: _Reference) -> None:
        batch = example, expected.classes
        try:
            found = self.of_patient([batch], expected.class_weights, exams=len(example[0])).double()
        except RuntimeError as error:  # an output of a layer that is changed in place
            if memory.ran_out(error):
                raise
            raise ConfigurationError(f"{WRONG_HOOKS}; PyTorch says {error!s:.200}") from None
        theirs = expected.gradient.double()
        if (found - theirs).norm() > HOOKS_TOLERANCE * theirs.norm():
            raise ConfigurationError(f"{WRONG_HOOKS}; they are off by {(found - theirs).norm():.2g}")


def pictures_at_once(size: int) -> int:
    """Pictures a pass of a network with so many parameters that train."""
    return max(1, min(PICTURES_AT_ONCE, GRADIENT_BYTES // (4 * size)))


def clipped_sum(
    gradients: Iterable[Float32[Tensor, " size"]], *, size: int, max_norm: float | int
) -> ClippedSum:
    """Sum over patients of their gradients, each clipped to ``max_norm``; one at a time is in memory.

    Args:
        gradients: one per patient who takes part.
        size: of each, also where there is none.
        max_norm: what each is clipped to.
    """
    total = torch.zeros(size, dtype=torch.float64)
    norms: list[float] = []
    for gradient in gradients:
        wide = gradient.double()
        norm = float(wide.norm())
        if math.isfinite(norm):
            total = total.to(wide.device).add_(wide, alpha=min(1.0, max_norm / norm) if norm else 0.0)
        norms.append(norm if math.isfinite(norm) else math.nan)
    return ClippedSum(total=total.cpu(), norms=torch.tensor(norms, dtype=torch.float64))


def private_network_gradient(
    gradient_of: Callable[[int], Float32[Tensor, " size"]],
    settings: StepSettings,
    *,
    patients: int,
    size: int,
    entropy: bytes,
) -> NoisedGradient:
    """One private step's gradient of the mean loss over patients.

    Args:
        gradient_of: the gradient of a patient, 0 .. patients - 1; called for those who take part.
        settings: public parameters.
        patients: how many may be sampled.
        size: of a gradient.
        entropy: 32 bytes from the operating system, for this step only; also after a crash.

    Raises:
        ConfigurationError: for bad entropy.
    """
    summed = clipped_sum(
        (gradient_of(number) for number in _sampled(patients, settings, entropy)),
        size=size,
        max_norm=gaussian_release.clipping_norm(settings.max_grad_norm),
    )
    return noised(summed, settings, entropy=entropy)


def _sampled(patients: int, settings: StepSettings, entropy: bytes) -> list[int]:
    """Who takes part: each with the same probability, independently."""
    taken = KeyStream(entropy, "sampling").bernoulli(patients, probability=settings.sample_rate)
    return [int(number) for number in np.flatnonzero(taken)]


class _OutOfPlace(TorchFunctionMode):
    """Activations and residual sums (``y += x``) make new tensors: what hooks look at must not change."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given: dict[str, Any] = dict(kwargs or {})
        if given.get("inplace"):
            given["inplace"] = False
        return torch.add(*args, **given) if func is Tensor.add_ else func(*args, **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """A gradient by automatic differentiation, on public pictures."""

    classes: Int64[Tensor, " n"]
    class_weights: Float32[Tensor, " classes"]
    gradient: Float32[Tensor, " size"]


def _reference(network: FlatNetwork, example: Pictures) -> _Reference:
    """What the hooks must give.

    Raises:
        ConfigurationError: if the network answers otherwise when it is asked again.
    """
    answers = network.module(example)
    with torch.no_grad():
        again = network.module(example)
    if not torch.equal(answers.detach().nan_to_num(), again.nan_to_num()):
        raise ConfigurationError(
            "Expected a network that gives the same answer twice, got two different answers: remove "
            "dropout, which draws at random"
        )
    classes = torch.arange(len(answers), device=answers.device) % answers.shape[1]
    class_weights = torch.ones(answers.shape[1], device=answers.device)
    parameters = [p for p in network.module.parameters() if p.requires_grad]
    loss = _loss(answers, classes, class_weights / len(answers))
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return _Reference(
        classes=classes, class_weights=class_weights, gradient=torch.cat([part.flatten() for part in parts])
    )


def _loss(answers: Tensor, classes: Tensor, class_weights: Tensor) -> Tensor:
    losses: Tensor = F.cross_entropy(answers, classes, reduction="none") * class_weights[classes]
    return losses.sum()


def _refuse_statistics(network: FlatNetwork) -> None:
    for name, module in network.module.named_modules():
        if isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False):
            raise ConfigurationError(
                f"Expected norms that keep nothing of what they have seen, got {type(module).__name__} at {name}: "
                f'take one with GroupNorm, network.backbone = "small" or one of your own'
            )
    buffers = [name for name, _ in network.layout.entries[network.layout.parameters :]]
    if buffers:
        raise ConfigurationError(
            f"Expected a network of parameters only, got buffers {buffers!s:.200}: they would leave without noise"
        )
