"""A network as one flat vector: how its parameters and floating buffers lie in it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int
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

    def pieces(self, flat: Float32[Tensor, " size"]) -> Iterator[tuple[str, Tensor]]:
        """Name and view of each entry in a flat vector of this layout.

        Raises:
            UpdateError: if the vector is of another length.
        """
        if flat.shape != (self.size,):
            raise UpdateError(f"Expected {self.size} values for this network, got {tuple(flat.shape)}")
        start = 0
        for name, shape in self.entries:
            stop = start + math.prod(shape)
            yield name, flat[start:stop].view(shape)
            start = stop

    def slices(self, part: str) -> list[slice]:
        """Where the entries of a part (a module's name) lie, in the order of its own layout, adjacent ones merged."""
        found: list[slice] = []
        start = 0
        for name, shape in self.entries:
            stop = start + math.prod(shape)
            if name.startswith(f"{part}."):
                adjacent = bool(found) and found[-1].stop == start
                found = (
                    [*found[:-1], slice(found[-1].start, stop)] if adjacent else [*found, slice(start, stop)]
                )
            start = stop
        return found


def layout_of(network: nn.Module, *, frozen: Sequence[str] = ()) -> Layout:
    """The layout of a network without its frozen parts."""

    def travels(name: str) -> bool:
        return not any(name.startswith(f"{part}.") for part in frozen)

    parameters = [(n, tuple(t.shape)) for n, t in network.named_parameters() if travels(n)]
    buffers = [
        (n, tuple(t.shape)) for n, t in network.named_buffers() if t.is_floating_point() and travels(n)
    ]
    return Layout(entries=(*parameters, *buffers), parameters=len(parameters))


NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,  # BatchNorm and InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
)


def norm_layers(network: nn.Module) -> set[str]:
    """Names of a network's normalisation layers."""
    return {name for name, module in network.named_modules() if isinstance(module, NORM_LAYERS)}


def norm_positions(network: nn.Module, layout: Layout) -> Int[Tensor, " norms"]:
    """Where the parameters and statistics of a network's normalisation layers lie in its flat vector, ascending."""
    owners = norm_layers(network)
    found, start = [torch.empty(0, dtype=torch.long)], 0
    for name, shape in layout.entries:
        stop = start + math.prod(shape)
        if name.rpartition(".")[0] in owners:
            found.append(torch.arange(start, stop))
        start = stop
    return torch.cat(found)


def flatten(network: nn.Module, *, frozen: Sequence[str] = ()) -> Float32[Tensor, " size"]:
    """All parameters and floating buffers of a network, but its frozen parts, as one vector on the CPU."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    entries = layout_of(network, frozen=frozen).entries
    return torch.cat([tensors[name].detach().reshape(-1).float().cpu() for name, _ in entries])


def point(network: nn.Module, layout: Layout, flat: Float32[Tensor, " size"]) -> None:
    """Make a network's parameters and buffers views into a flat vector; nothing is copied.

    Raises:
        UpdateError: if the vector is of another length.
    """
    parameters = dict(network.named_parameters())
    for name, view in layout.pieces(flat):
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        if name not in parameters:
            module._buffers[attribute] = view
        elif parameters[name].is_meta:
            module._parameters[attribute] = nn.Parameter(view, requires_grad=False)
        else:
            parameters[name].data = view


@torch.no_grad()
def load(network: nn.Module, flat: Float32[Tensor, " size"]) -> None:
    """Copy a flat vector into a network.

    Raises:
        UpdateError: if the vector is of another length.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, view in layout_of(network).pieces(flat):
        tensors[name].copy_(view)
