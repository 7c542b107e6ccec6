"""Builds the network of a spec."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.networks.backbones import initialise
from common.networks.fusion import FusionNetwork, ImageNetwork
from common.networks.jigsaw import JigsawNetwork
from common.networks.layout import Layout, flatten, layout_of, point
from common.networks.probe import ProbeNetwork
from common.networks.spec import NetworkSpec, Shape
from common.sections.networks import NetworkSettings

Flat = Float32[Tensor, " _"]
_layouts: dict[tuple[Shape, NetworkSettings, str], Layout] = {}
"""By shape, settings and part ("": all that travels). A campaign has a few shapes, every round asks for theirs."""


def network(spec: NetworkSpec, settings: NetworkSettings) -> nn.Module:
    """The network of a spec, with arbitrary weights.

    It maps a sequence of pictures, ``spec.images`` in order, each ``float32 (n, 3, side, side)``, of a clip
    ``(n, frames, 3, side, side)``, to logits ``(n, classes)``; a jigsaw network maps one sequence of tiles
    ``(n, 9, 3, tile, tile)``.
    """
    return described(spec, settings).to_empty(device="cpu")


def described(spec: NetworkSpec, settings: NetworkSettings) -> nn.Module:
    """The network of a spec on the device ``meta``: shapes without weights; nothing is allocated or drawn."""
    with torch.device("meta"):
        return _describe(spec, settings)


def _describe(spec: NetworkSpec, settings: NetworkSettings) -> nn.Module:
    if spec.backbone is not None:
        settings = settings.model_copy(update={"backbone": spec.backbone})
    moves = [image in spec.clips for image in spec.images]
    if spec.jigsaw is not None:
        return JigsawNetwork(settings, permutations=spec.target.classes)
    if spec.probe is not None:
        return ProbeNetwork(
            settings, moves=moves, classes=spec.target.outputs, neck=spec.probe.neck, norms=spec.probe.norms
        )
    if len(moves) == 1:
        return ImageNetwork(settings, classes=spec.target.outputs, layer=spec.layer, moves=moves[0])
    return FusionNetwork(settings, moves=moves, classes=spec.target.outputs)


def layout(spec: NetworkSpec, settings: NetworkSettings) -> Layout:
    """The layout of what travels of a spec's network: all but its frozen parts. Nothing is allocated for it."""
    return _layout(spec, settings, "")


def part_layout(spec: NetworkSpec, settings: NetworkSettings, part: str) -> Layout:
    """The layout of one part of a spec's network, as of a network of its own, without what is frozen within it."""
    return _layout(spec, settings, part)


def _layout(spec: NetworkSpec, settings: NetworkSettings, part: str) -> Layout:
    key = (spec.shape, settings, part)
    if key not in _layouts:
        module = described(spec, settings).get_submodule(part)
        within = f"{part}." if part else ""
        parts = [piece.part for piece in spec.frozen]
        frozen = [name.removeprefix(within) for name in parts if name.startswith(within)]
        _layouts[key] = layout_of(module, frozen=frozen)
    return _layouts[key]


def part(
    spec: NetworkSpec, settings: NetworkSettings, weights: Flat, source: str
) -> Float32[Tensor, " size"]:
    """One part of a trained network as a flat vector of its own; a view where it lies in one piece."""
    pieces = [weights[piece] for piece in layout(spec, settings).slices(source)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def assembled(
    spec: NetworkSpec, settings: NetworkSettings, weights: Flat, frozen: Mapping[str, Flat]
) -> nn.Module:
    """A network to be asked, its weights views into the vectors that are given.

    Args:
        spec: the network.
        settings: backbone and size.
        weights: what travels.
        frozen: part -> flat vector of each frozen part.
    """
    built = described(spec, settings)
    for piece in spec.frozen:
        module = built.get_submodule(piece.part)
        point(module, layout_of(module), frozen[piece.part])
    point(built, layout_of(built, frozen=[piece.part for piece in spec.frozen]), weights)
    for owner in built.modules():  # integer buffers, which nothing reads
        for name, buffer in owner._buffers.items():
            if buffer is not None and buffer.is_meta:
                owner._buffers[name] = torch.zeros_like(buffer, device=weights.device)
    return built.eval()


def unfrozen(spec: NetworkSpec) -> NetworkSpec:
    """The same network, all of which trains."""
    return spec.model_copy(update={"pieces": tuple(piece for piece in spec.pieces if not piece.frozen)})


def joined(
    spec: NetworkSpec, settings: NetworkSettings, weights: Flat, frozen: Mapping[str, Flat]
) -> Float32[Tensor, " size"]:
    """The flat vector of :func:`unfrozen`'s network: what travels and the frozen parts, each in its place.

    Args:
        spec: the network.
        settings: backbone and size.
        weights: what travels.
        frozen: part -> flat vector of each frozen part.
    """
    pieces = dict(layout(spec, settings).pieces(weights))
    for name, values in frozen.items():
        inner = part_layout(spec, settings, name).pieces(values)
        pieces |= {f"{name}.{entry}": view for entry, view in inner}
    entries = layout(unfrozen(spec), settings).entries
    return torch.cat([pieces[name].reshape(-1) for name, _ in entries])


def split(
    spec: NetworkSpec, settings: NetworkSettings, whole: Flat
) -> tuple[Float32[Tensor, " size"], dict[str, Float32[Tensor, " _"]]]:
    """What travels and the frozen parts, of :func:`unfrozen`'s flat vector: the inverse of :func:`joined`."""
    pieces = dict(layout(unfrozen(spec), settings).pieces(whole))
    travels = torch.cat([pieces[name].reshape(-1) for name, _ in layout(spec, settings).entries])
    parts = {piece.part: part(unfrozen(spec), settings, whole, piece.part) for piece in spec.frozen}
    return travels, parts


def initial_weights(spec: NetworkSpec, settings: NetworkSettings, *, seed: int) -> Float32[Tensor, " size"]:
    """Random start weights of what travels, or a last layer of zeros; the same seed gives the same bits."""
    built = network(spec, settings)
    initialise(built, torch.Generator().manual_seed(seed % 2**63))
    if settings.head == "zero":
        head = built.get_submodule("head")
        last = [layer for layer in head.modules() if isinstance(layer, nn.Linear)][-1]
        for values in last.parameters():
            nn.init.zeros_(values)
    return flatten(built, frozen=[piece.part for piece in spec.frozen])
