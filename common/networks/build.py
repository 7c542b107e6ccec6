"""Builds the network of a spec."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.networks.backbones import initialise
from common.networks.fusion import FusionNetwork, ImageNetwork
from common.networks.layout import Layout, flatten, layout_of
from common.networks.spec import NetworkSpec
from common.settings import NetworkSettings


def network(spec: NetworkSpec, settings: NetworkSettings) -> nn.Module:
    """The network of a spec, with arbitrary weights.

    It maps a sequence of pictures, ``spec.images`` in order, each ``float32 (n, 3, side, side)``, to logits
    ``(n, classes)``.
    """
    with torch.device(
        "meta"
    ):  # else the modules would draw from the global generator, to be overwritten anyway
        built = _describe(spec, settings)
    return built.to_empty(device="cpu")


def _describe(spec: NetworkSpec, settings: NetworkSettings) -> nn.Module:
    if len(spec.images) == 1:
        return ImageNetwork(settings, classes=spec.target.classes)
    return FusionNetwork(settings, images=len(spec.images), classes=spec.target.classes)


def layout(spec: NetworkSpec, settings: NetworkSettings) -> Layout:
    """The layout of a spec's network; nothing is allocated for it."""
    with torch.device("meta"):
        return layout_of(_describe(spec, settings))


def initial_weights(spec: NetworkSpec, settings: NetworkSettings, *, seed: int) -> Float32[Tensor, " size"]:
    """Random start weights; the same seed gives the same bits."""
    built = network(spec, settings)
    initialise(built, torch.Generator().manual_seed(seed % 2**63))
    return flatten(built)
