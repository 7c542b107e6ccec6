"""Local training of one network at one site, a pure function: same inputs, same bits (on a CPU)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from common.errors import UpdateError
from common.networks.spec import NetworkSpec
from common.sections.training import TrainingSettings
from common.training import answers
from common.training.data import ExamTensors
from common.training.flat_network import FlatNetwork, flat_network
from common.training.inputs import inputs, labels, training_exams, wanted
from common.training.local_settings import LocalSettings
from common.training.resident import resident
from common.training.sampling import batches
from common.training.schedule import learning_rate

SCORING_BATCH = 128
"""Exams a forward pass; any size gives the same scores up to rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalUpdate:
    """What a round of local training gave.

    Attributes:
        update: trained minus received weights, on the CPU.
        num_examples: training exams before resampling; 0 where a class was missing and nothing was trained.
        loss: mean over the steps; NaN if there was none.
        extra: further arrays that an algorithm sends, by name, one value per parameter each.
    """

    update: Float32[Tensor, " size"]
    num_examples: int
    loss: float
    extra: Mapping[str, Float32[Tensor, " trained"]] = field(default_factory=dict)


@runtime_checkable
class GradientTerm(Protocol):
    """What an algorithm adds to the loss's gradient before each step of the optimiser."""

    def add(
        self,
        gradient: Float32[Tensor, " trained"],
        weights: Float32[Tensor, " trained"],
        *,
        learning_rate: float,
    ) -> None:
        """Add the term to ``gradient``, in place.

        Args:
            gradient: of the loss, of all parameters that train, on the training device.
            weights: these parameters as they stand.
            learning_rate: of this step.
        """
        ...


def train_network(
    weights: Float32[Tensor, " size"],
    site_state: Mapping[str, Tensor],
    data: ExamTensors,
    settings: LocalSettings,
    server_round: int,
    seed: int,
    *,
    term: GradientTerm | None = None,
) -> tuple[LocalUpdate, Mapping[str, Tensor]]:
    """Train one network for one round.

    Args:
        weights: received weights; not changed.
        site_state: what the optimiser was left with by the round before, by its own names; empty: it starts
            afresh.
        data: the site's exams.
        settings: what to train and how.
        server_round: counts from 1; places the round on the learning rate's schedule.
        seed: all randomness of this round.
        term: changes the gradient of each step; ``None``: it is the loss's alone.

    Returns:
        The update, and what the optimiser is left with. A site whose exams are all of one class, or that has
        none, trains nothing: its update is zero and so is its weight.

    Raises:
        UpdateError: if the optimiser's state is of another network.
    """
    exams, strata = material(data, settings.spec)
    if not len(exams):
        return untrained(weights), site_state
    network = flat_network(settings.spec, settings.network, settings.device)
    network.load(weights, settings.frozen)
    optimiser = fresh_optimiser(network.trained, settings.training)
    resume(optimiser, network.trained, site_state)
    generator = torch.Generator().manual_seed(seed)
    data = resident(data, settings.spec.images, settings.device)
    loss = _steps(network, optimiser, data, exams, strata, settings, server_round, generator, term)
    update = network.flat.cpu() - weights
    after = {name: values.cpu() for name, values in optimiser.state[network.trained].items()}
    return LocalUpdate(update=update, num_examples=len(exams), loss=loss), after


def material(
    data: ExamTensors, spec: NetworkSpec
) -> tuple[Int[Tensor, " training"], Int[Tensor, " training"]]:
    """The exams that a network trains on and their strata; none where they are all of one class."""
    exams = training_exams(data, spec)
    strata = labels(data, spec)[exams]
    needed = 1 if spec.target.kind == "permutation" else 2
    return (exams, strata) if len(strata.unique()) >= needed else (exams[:0], strata[:0])


def untrained(weights: Float32[Tensor, " size"]) -> LocalUpdate:
    """Of a network that trains nothing."""
    return LocalUpdate(update=torch.zeros_like(weights), num_examples=0, loss=float("nan"))


def score(
    weights: Float32[Tensor, " size"],
    data: ExamTensors,
    exams: Int[Tensor, " n"],
    settings: LocalSettings,
) -> Float32[Tensor, "n answers"]:
    """Probabilities of the classes for some exams (of a number its share), unaugmented, on the CPU."""
    return _scored(weights, data, exams, settings)[0]


def accuracy(
    weights: Float32[Tensor, " size"],
    data: ExamTensors,
    exams: Int[Tensor, " n"],
    settings: LocalSettings,
) -> float:
    """Share of exams (for a jigsaw network: of puzzles, one per exam) whose most probable class is right."""
    scores, classes = _scored(weights, data, exams, settings)
    return float((scores.argmax(dim=1) == classes).float().mean())


def _scored(
    weights: Tensor, data: ExamTensors, exams: Tensor, settings: LocalSettings
) -> tuple[Tensor, Tensor]:
    """Probabilities and classes."""
    network = flat_network(settings.spec, settings.network, settings.device)
    network.load(weights, settings.frozen)
    network.module.eval()
    data = resident(data, settings.spec.images, settings.device)
    target, targets = settings.spec.target, wanted(data, settings.spec)
    scores, classes = [torch.empty(0, target.answers)], [torch.empty(0, dtype=targets.dtype)]
    with torch.inference_mode():
        for chunk in exams.split(SCORING_BATCH):
            pictures, right = inputs(data, chunk, targets[chunk], settings, generator=None)
            with autocast(settings.device):
                logits = network.module(pictures)
            scores.append(answers.probabilities(logits.float(), target).cpu())
            classes.append(right.cpu())
    return torch.cat(scores), torch.cat(classes)


def _steps(
    network: FlatNetwork,
    optimiser: torch.optim.Optimizer,
    data: ExamTensors,
    exams: Tensor,
    strata: Tensor,
    settings: LocalSettings,
    server_round: int,
    generator: torch.Generator,
    term: GradientTerm | None,
) -> float:
    training, targets = settings.training, wanted(data, settings.spec)[exams]
    gradient = network.trained.grad
    assert gradient is not None
    network.training_mode()
    total = torch.zeros((), device=settings.device)
    done_before = (server_round - 1) * training.local_steps
    for step, batch in enumerate(islice(batches(strata, training, generator), training.local_steps)):
        rate = learning_rate(training, step=done_before + step, total=settings.rounds * training.local_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        gradient.zero_()
        pictures, right = inputs(data, exams[batch], targets[batch], settings, generator)
        with autocast(settings.device):
            logits = network.module(pictures)
            loss = answers.loss(logits, right, settings.spec.target)
        loss.backward()
        if term is not None:
            term.add(gradient, network.trained.detach(), learning_rate=rate)
        optimiser.step()
        total += loss.detach()
    return float(total) / training.local_steps


def fresh_optimiser(trained: nn.Parameter, training: TrainingSettings) -> torch.optim.Optimizer:
    """An optimiser of a network's trained vector that has taken no step yet."""
    if training.optimiser == "sgd":
        return torch.optim.SGD(
            [trained],
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
    return torch.optim.AdamW(
        [trained], lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )


def resume(
    optimiser: torch.optim.Optimizer,
    trained: nn.Parameter,
    kept: Mapping[str, Tensor],
) -> None:
    """Let an optimiser go on from what it was left with.

    Raises:
        UpdateError: if that is of another network.
    """
    if any(values.ndim and values.shape != trained.shape for values in kept.values()):
        raise UpdateError(f"Expected {len(trained)} values of each of the optimiser's {sorted(kept)}")
    if kept:
        optimiser.state[trained] = {
            name: values.to(trained.device, copy=True) for name, values in kept.items()
        }


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The precision of a network's pass, in training and scoring alike: bfloat16 on CUDA, float32 elsewhere.

    Pictures are prepared outside of it: a sampling grid in bfloat16 is off by tenths of a pixel.
    """
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()
