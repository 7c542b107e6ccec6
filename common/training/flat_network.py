"""A network whose parameters, gradients and floating buffers are views into one flat vector each.

Loading, reading out, clearing gradients, the optimiser's step and an algorithm's term are then one operation each
instead of one for every tensor of the network. Frozen parts have a vector each of their own, and no gradients.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.errors import UpdateError
from common.networks import build
from common.networks.layout import Layout, layout_of, norm_positions, point
from common.networks.spec import NetworkSpec
from common.sections.networks import NetworkSettings


class FlatNetwork:
    """A network and its flat vector.

    Attributes:
        module: the network.
        layout: of what travels: all but the frozen parts.
        flat: its weights, as the layout orders them.
        norms: where normalisation layers lie in ``flat``.
        trained: the leading part of ``flat`` that holds parameters, as one leaf with a flat gradient.
        frozen: part -> flat vector of each frozen part.
    """

    def __init__(self, module: nn.Module, device: torch.device, *, frozen: tuple[str, ...] = ()) -> None:
        self.layout: Layout = layout_of(module, frozen=frozen)
        self.norms = norm_positions(module, self.layout)
        self.module = module.to(device)
        self.flat: Float32[Tensor, " size"] = torch.empty(self.layout.size, device=device)
        self.trained = nn.Parameter(self.flat[: self.layout.trained_size])
        gradient = torch.zeros_like(self.flat)
        self.trained.grad = gradient[: self.layout.trained_size]
        self.frozen = {part: _freeze(module.get_submodule(part), device) for part in frozen}
        point(module, self.layout, self.flat)
        parameters = dict(module.named_parameters())
        for name, view in self.layout.pieces(gradient):
            if name in parameters:
                parameters[name].grad = view

    def load(
        self, flat: Float32[Tensor, " size"], frozen: Mapping[str, Float32[Tensor, " _"]] | None = None
    ) -> None:
        """Take weights.

        Raises:
            UpdateError: if a vector is of another length, or one of a frozen part is missing.
        """
        given = frozen or {}
        if set(given) != set(self.frozen):
            raise UpdateError(f"Expected weights of the frozen {sorted(self.frozen)}, got {sorted(given)}")
        for target, source in ((self.flat, flat), *((self.frozen[p], given[p]) for p in self.frozen)):
            if source.shape != target.shape:
                raise UpdateError(
                    f"Expected {len(target)} values for this network, got {tuple(source.shape)}"
                )
            with torch.no_grad():
                target.copy_(source)

    def training_mode(self) -> None:
        """Training, but for frozen parts, whose norms keep their statistics."""
        self.module.train()
        for part in self.frozen:
            self.module.get_submodule(part).eval()


def _freeze(part: nn.Module, device: torch.device) -> Float32[Tensor, " size"]:
    layout = layout_of(part)
    flat = torch.empty(layout.size, device=device)
    point(part, layout, flat)
    part.requires_grad_(False)
    return flat


_cache = threading.local()


def flat_network(spec: NetworkSpec, settings: NetworkSettings, device: torch.device) -> FlatNetwork:
    """A network of the spec's shape, kept for the calling thread; its weights are whatever was there last."""
    networks: dict[object, FlatNetwork] = _cache.__dict__.setdefault("networks", {})
    key = (spec.shape, settings, device)
    if key not in networks:
        with torch.inference_mode(False):  # scoring may ask first; what it makes must be trainable later
            frozen = tuple(piece.part for piece in spec.frozen)
            networks[key] = FlatNetwork(build.network(spec, settings), device, frozen=frozen)
    return networks[key]
