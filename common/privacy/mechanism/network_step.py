"""One private step of a whole network: many patients' gradients a pass, each patient's clipped as one vector.

:mod:`common.privacy.mechanism.exam_gradients` gives the gradient of every exam of a pass; a patient's gradient is the
mean over at most ``images`` of that patient's exams. Sampling, clipping, noise and the constant denominator are those
of :mod:`common.privacy.mechanism.patient_step`: a step costs the same, whatever is trained.

**Formal guarantees**, beside those of :mod:`common.privacy.mechanism.patient_step`:

* *A patient's gradient is a function of that patient alone*, on a CPU to the last bit. All passes have as many exams,
  filled up with blank ones, so that the same kernels run whoever takes part. Before anybody is sampled it is tried on
  pictures of nobody: an exam's gradient must be that of the exam alone, and have the same bits in every place of a
  pass, whatever lies beside it. Where a network, or a library's kernel, has it otherwise, a pass holds one exam.
* *What is clipped is what is summed.* Each patient's gradient is written out in float32; its norm, its scale and the
  sum are of those very numbers, in float64. One patient more or less changes the sum by that patient's clipped
  gradient and by rounding of float64, of n patients and d numbers at most (2 n^2 + d) 2^-53 of the clipping norm:
  below 10^-5 of it for 10^5 patients, where :mod:`.gaussian_release` leaves 2^-12.
* *Nothing but parameters.* A network that has floating buffers, or a norm that keeps statistics, is refused.

===========================================  ================================================================
case                                         answer
===========================================  ================================================================
BatchNorm, also frozen or without weights    refused: it keeps or couples what it has seen; take GroupNorm
InstanceNorm that tracks statistics          refused
a floating buffer that would travel          refused
dropout, or other chance within the network  refused: it draws from a generator with a seed
layers whose gradients come out wrong        refused: tried on public pictures, against automatic differentiation
a network that couples the exams of a pass   one exam a pass
a patient with more exams than ``images``    the first of them, in the order of the site's table
===========================================  ================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import ConfigurationError
from common.privacy.mechanism import gaussian_release
from common.privacy.mechanism.exam_gradients import ExamGradients, Pictures
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.patient_step import (
    NUMBERS_AT_ONCE,
    ClippedSum,
    NoisedGradient,
    StepSettings,
    noised,
)
from common.training import memory
from common.training.flat_network import FlatNetwork

GRADIENT_BYTES = 2**28
"""Of exams' gradients that are held at once; a larger network has fewer pictures a pass, at least one."""
PICTURES_AT_ONCE = 64
"""In a pass at most: what goes through the network and what comes back lie in memory for each."""
TOLERANCE = 1e-3
"""How far an exam's gradient may lie from that by automatic differentiation, over its norm."""
WRONG_LAYERS = (
    "Expected a network whose gradients are found exam by exam: build it of layers that are asked as modules, and "
    "change nothing in place"
)

Exams = tuple[Pictures, Int64[Tensor, " n"]]
"""Pictures and classes."""


class PatientGradients:
    """A network whose gradients are given patient by patient, those of many in a pass.

    Args:
        network: with its weights; in training mode from here on.
        example: public pictures of the right shape, of as many exams as a pass may hold, at least one.

    Attributes:
        exams_a_pass: as many as the example has, or one.

    Raises:
        ConfigurationError: for a network that cannot be trained so.
    """

    def __init__(self, network: FlatNetwork, *, example: Pictures) -> None:
        _refuse_statistics(network)
        self.network = network
        network.training_mode()
        self._gradients = ExamGradients(network.module, network.layout)
        classes = torch.arange(len(example[0]), device=network.flat.device) % _classes(network, example)
        for self.exams_a_pass in dict.fromkeys((len(classes), 1)):
            problem = self._problem(example, classes)
            if problem is None:
                return
        raise ConfigurationError(f"{WRONG_LAYERS}; {problem}")

    @property
    def size(self) -> int:
        """Length of a gradient: all parameters that train."""
        return self.network.layout.trained_size

    def of_patients(
        self,
        read: Callable[[slice], Exams],
        counts: Sequence[int],
        class_weights: Float32[Tensor, " classes"],
    ) -> Iterator[Float32[Tensor, "patients size"]]:
        """The gradient of each patient's mean loss: weight(class) x cross-entropy.

        Args:
            read: gives some of all exams, one patient's after another's, in their order.
            counts: how many exams each patient has, at least one.
            class_weights: public constants.

        Returns:
            Blocks of patients in their order; the next one overwrites the last.
        """
        owners = [number for number, count in enumerate(counts) for _ in range(count)]
        rows = self._blank(self.exams_a_pass)
        begun: Tensor | None = None
        for start in range(0, len(owners), self.exams_a_pass):
            own = owners[start : start + self.exams_a_pass]
            stop = start + len(own)
            self._pass(rows, *read(slice(start, stop)), class_weights, [counts[owner] for owner in own])
            if begun is not None:
                rows[0] += begun
            patients = _added_up(rows, own)
            whole = len(patients) - (stop < len(owners) and owners[stop] == own[-1])
            begun = patients[whole].clone() if whole < len(patients) else None
            yield patients[:whole]

    def _blank(self, exams: int) -> Float32[Tensor, "exams size"]:
        return torch.zeros(exams, self.size, device=self.network.flat.device)

    def _pass(
        self,
        rows: Float32[Tensor, "exams size"],
        pictures: Pictures,
        classes: Tensor,
        class_weights: Tensor,
        counts: Sequence[int],
    ) -> None:
        """Each exam's gradient, over how many its patient has, into the first rows; blank exams fill up the pass."""
        missing = len(rows) - len(classes)
        weights = class_weights[classes] / torch.tensor(counts, device=classes.device)
        if missing:
            pictures = [torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in pictures]
            classes, weights = (torch.cat([some, some.new_zeros(missing)]) for some in (classes, weights))
        rows.zero_()
        self._gradients.add_to(rows, pictures, partial(_loss, classes=classes, weights=weights))

    def _problem(self, example: Pictures, classes: Tensor) -> str | None:
        """Why a pass cannot have as many exams as it is to have; see **Guarantees**."""
        exams = self.exams_a_pass
        try:
            here = self._of_nobody(example, classes)
            alike = exams == 1 or self._alike_elsewhere(here, example, classes)
        except (
            ConfigurationError,
            RuntimeError,
            ValueError,
        ) as error:  # such as answers that change in place
            if memory.ran_out(error):
                raise
            return f"PyTorch says {error!s:.200}"
        if not alike:
            return "they depend on where an exam lies in a pass, or on what lies beside it"
        off = max(
            _distance(self.network, example, classes, number, here[number]) for number in {0, exams - 1}
        )
        return None if off <= TOLERANCE else f"they are off by {off:.2g}"

    def _alike_elsewhere(self, here: Tensor, example: Pictures, classes: Tensor) -> bool:
        """Whether exams have the same gradients each one place further on, beside one that is not a number."""
        poisoned = len(here) // 2
        moved = [part.roll(1, 0).index_fill(0, classes.new_tensor(poisoned), torch.nan) for part in example]
        there = self._of_nobody(moved, classes.roll(1)).roll(-1, 0)
        kept = [number for number in range(len(here)) if number != poisoned - 1]
        one, other = here[kept].nan_to_num(), there[kept].nan_to_num()
        if one.is_cpu:
            return torch.equal(one, other)
        return bool(((one - other).norm(dim=1) <= TOLERANCE * one.norm(dim=1)).all())

    def _of_nobody(self, example: Pictures, classes: Tensor) -> Tensor:
        rows = self._blank(self.exams_a_pass)
        some = slice(len(rows))
        ones = torch.ones(int(classes.max()) + 1, device=classes.device)
        self._pass(rows, [part[some] for part in example], classes[some], ones, [1] * len(rows))
        return rows


def _added_up(rows: Float32[Tensor, "exams size"], owners: Sequence[int]) -> Float32[Tensor, "patients size"]:
    """The first rows, with each owner's rows added up in them, in place; an owner's rows lie side by side."""
    place = 0
    for number in range(1, len(owners)):
        if owners[number] == owners[number - 1]:
            rows[place] += rows[number]
        else:
            place += 1
            if place < number:
                rows[place].copy_(rows[number])
    return rows[: place + 1]


def pictures_at_once(size: int) -> int:
    """Pictures a pass of a network with so many parameters that train."""
    return max(1, min(PICTURES_AT_ONCE, GRADIENT_BYTES // (4 * size)))


def clipped_sum(
    blocks: Iterable[Float32[Tensor, "patients size"]], *, size: int, max_norm: float | int
) -> ClippedSum:
    """Sum over patients of their gradients, each clipped to ``max_norm``; one block at a time is in memory.

    Args:
        blocks: the gradients of those who take part, some patients' each.
        size: of each gradient, also where there is none.
        max_norm: what each is clipped to.
    """
    total = torch.zeros(size, dtype=torch.float64)
    norms = [torch.empty(0, dtype=torch.float64)]
    for block in blocks:
        total = total.to(block.device)
        columns = max(1, NUMBERS_AT_ONCE // max(1, len(block)))
        norms_of_parts = [part.double().norm(dim=1) for part in block.split(columns, dim=1)]
        norm = torch.stack(norms_of_parts).norm(dim=0)
        finite = norm.isfinite()
        scale = torch.where(finite, (max_norm / norm).clamp(max=1.0), 0.0)
        # zero times nan is nan
        kept = block if bool(finite.all()) else torch.where(finite[:, None], block, 0.0)
        for sums, part in zip(total.split(columns), kept.split(columns, dim=1), strict=True):
            sums.addmv_(part.double().mT, scale)
        norms.append(torch.where(finite, norm, torch.nan).cpu())
    return ClippedSum(total=total.cpu(), norms=torch.cat(norms))


def private_network_gradient(
    gradients_of: Callable[[Sequence[int]], Iterable[Float32[Tensor, "patients size"]]],
    settings: StepSettings,
    *,
    patients: int,
    size: int,
    entropy: bytes,
) -> NoisedGradient:
    """One private step's gradient of the mean loss over patients.

    Args:
        gradients_of: the gradients of patients, numbers of 0 .. patients - 1, in blocks; called with those who take
            part.
        settings: public parameters.
        patients: how many may be sampled.
        size: of a gradient.
        entropy: 32 bytes from the operating system, for this step only; also after a crash.

    Raises:
        ConfigurationError: for bad entropy.
    """
    summed = clipped_sum(
        gradients_of(_sampled(patients, settings, entropy)),
        size=size,
        max_norm=gaussian_release.clipping_norm(settings.max_grad_norm),
    )
    return noised(summed, settings, entropy=entropy)


def _sampled(patients: int, settings: StepSettings, entropy: bytes) -> list[int]:
    """Who takes part: each with the same probability, independently."""
    taken = KeyStream(entropy, "sampling").bernoulli(patients, probability=settings.sample_rate)
    return [int(number) for number in np.flatnonzero(taken)]


def _loss(answers: Tensor, *, classes: Tensor, weights: Tensor) -> Tensor:
    losses: Tensor = F.cross_entropy(answers, classes, reduction="none") * weights
    return losses.sum()


def _classes(network: FlatNetwork, example: Pictures) -> int:
    """How many classes a network tells apart.

    Raises:
        ConfigurationError: if it answers otherwise when it is asked again.
    """
    with torch.no_grad():
        answers, again = (network.module([part[:2] for part in example]) for _ in range(2))
    if not torch.equal(answers.nan_to_num(), again.nan_to_num()):
        raise ConfigurationError(
            "Expected a network that gives the same answer twice, got two different answers: remove "
            "dropout, which draws at random"
        )
    return int(answers.shape[1])


def _distance(network: FlatNetwork, example: Pictures, classes: Tensor, number: int, found: Tensor) -> float:
    """How far that is from an exam's gradient by automatic differentiation, over its norm; 0 if that is no number."""
    one = slice(number, number + 1)
    loss = F.cross_entropy(network.module([part[one] for part in example]), classes[one])
    parameters = [p for p in network.module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    expected = torch.cat([part.flatten() for part in parts]).double()
    off = (found - expected).norm() / expected.norm().clamp(min=torch.finfo(torch.float64).tiny)
    return float(off.nan_to_num(nan=0.0, posinf=math.inf))


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
