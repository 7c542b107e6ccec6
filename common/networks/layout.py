"""A network as one flat vector: how its parameters and floating buffers lie in it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.errors import UpdateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Names and shapes, in order; parameters first, then floating buffers.

    Integer buffers (BatchNorm's ``num_batches_tracked``) are left out: nothing here reads them, and an
    average of counters means nothing.

    Attributes:
        entries: (name, shape) of each piece.
        parameters: how many leading entries are parameters.
    """

    entries: tuple[tuple[str, tuple[int, ...]], ...]
    parameters: int

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(math.prod(shape) for _, shape in self.entries)

    @property
    def trained_size(self) -> int:
        """Length of the leading part that holds parameters."""
        return sum(math.prod(shape) for _, shape in self.entries[: self.parameters])

    @property
    def hash(self) -> str:
        """SHA-256 over names and shapes, in hex: equal hashes, interchangeable vectors."""
        return hashlib.sha256(json.dumps([self.entries, self.parameters]).encode()).hexdigest()


def layout_of(network: nn.Module) -> Layout:
    """The layout of a network."""
    parameters = list(network.named_parameters())
    entries = [(name, tuple(tensor.shape)) for name, tensor in (*parameters, *_buffers(network))]
    return Layout(entries=tuple(entries), parameters=len(parameters))


def flatten(network: nn.Module) -> Float32[Tensor, " size"]:
    """All parameters and floating buffers of a network as one vector on the CPU."""
    pieces = [tensor.detach().reshape(-1).float().cpu() for tensor in _pieces(network)]
    return torch.cat(pieces)


@torch.no_grad()
def load(network: nn.Module, flat: Float32[Tensor, " size"]) -> None:
    """Copy a flat vector into a network.

    Raises:
        UpdateError: if the vector is of another length.
    """
    pieces = list(_pieces(network))
    size = sum(piece.numel() for piece in pieces)
    if flat.numel() != size:
        raise UpdateError(f"Expected {size} values for this network, got {flat.numel()}")
    start = 0
    for piece in pieces:
        piece.copy_(flat[start : start + piece.numel()].view(piece.shape))
        start += piece.numel()


def _pieces(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from (tensor for _, tensor in _buffers(network))


def _buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in network.named_buffers() if tensor.is_floating_point())
