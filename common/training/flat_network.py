"""A network whose parameters, gradients and floating buffers are views into one flat vector each.

Loading, reading out, clearing gradients, the optimiser's step and FedProx's term are then one operation each
instead of one for every tensor of the network.
"""

from __future__ import annotations

import math
import threading

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.errors import UpdateError
from common.networks import build
from common.networks.layout import Layout, layout_of
from common.networks.spec import NetworkSpec
from common.settings import NetworkSettings


class FlatNetwork:
    """A network and its flat vector.

    Attributes:
        module: the network.
        flat: all weights, as its layout orders them.
        trained: the leading part of ``flat`` that holds parameters, as one leaf with a flat gradient.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.layout: Layout = layout_of(module)
        self.module = module.to(device)
        self.flat: Float32[Tensor, " size"] = torch.empty(self.layout.size, device=device)
        self.trained = nn.Parameter(self.flat[: self.layout.trained_size])
        self.trained.grad = torch.zeros_like(self.trained)
        self._point_into_flat()

    def load(self, flat: Float32[Tensor, " size"]) -> None:
        """Take weights.

        Raises:
            UpdateError: if the vector is of another length.
        """
        if flat.shape != self.flat.shape:
            raise UpdateError(f"Expected {len(self.flat)} values for this network, got {tuple(flat.shape)}")
        with torch.no_grad():
            self.flat.copy_(flat)

    def _point_into_flat(self) -> None:
        start = 0
        gradient = self.trained.grad
        assert gradient is not None
        parameters = dict(self.module.named_parameters())
        for name, shape in self.layout.entries:
            stop = start + math.prod(shape)
            piece = self.flat[start:stop].view(shape)
            if name in parameters:
                parameters[name].data = piece
                parameters[name].grad = gradient[start:stop].view(shape)
            else:
                owner, _, attribute = name.rpartition(".")
                self.module.get_submodule(owner)._buffers[attribute] = piece
            start = stop


_cache = threading.local()


def flat_network(spec: NetworkSpec, settings: NetworkSettings, device: torch.device) -> FlatNetwork:
    """A network of the spec's shape, kept for the calling thread; its weights are whatever was there last."""
    networks: dict[object, FlatNetwork] = _cache.__dict__.setdefault("networks", {})
    key = (len(spec.images), spec.target.classes, settings, device)
    if key not in networks:
        with torch.inference_mode(False):  # scoring may ask first; what it makes must be trainable later
            networks[key] = FlatNetwork(build.network(spec, settings), device)
    return networks[key]
