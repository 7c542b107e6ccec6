"""Which exams a step trains on: endless streams of batches, pure functions of a generator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from common.sections.training import TrainingSettings


def batches(
    labels: Int[Tensor, " n"], settings: TrainingSettings, generator: torch.Generator
) -> Iterator[Int[Tensor, " batch"]]:
    """Positions in ``labels`` of one batch after another, without end.

    Args:
        labels: the class of each training exam; not empty.
        settings: ``sampling`` and ``batch_size``.
        generator: all randomness.
    """
    if settings.sampling == "all":
        while True:
            yield torch.arange(len(labels))
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < settings.batch_size:
            left = torch.cat([left, _epoch(labels, settings, generator)])
        yield left[: settings.batch_size]
        left = left[settings.batch_size :]


def _epoch(labels: Tensor, settings: TrainingSettings, generator: torch.Generator) -> Tensor:
    if settings.sampling == "shuffled":
        return torch.randperm(len(labels), generator=generator)
    return balanced_epoch(labels, generator)


def balanced_epoch(labels: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " resampled"]:
    """One epoch with classes in equal numbers (RATING): exams of the rarer ones repeat."""
    members = [torch.nonzero(labels == value).flatten() for value in labels.unique()]
    largest = max(len(m) for m in members)
    resampled = torch.cat([_repeat(m, largest, generator) for m in members])
    return resampled[torch.randperm(len(resampled), generator=generator)]


def _repeat(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    rounds = -(-count // len(members))
    shuffled = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
    return torch.cat(shuffled)[:count]
