"""Weights that networks start from: torchvision's backbones, downloaded or from a file, and public encoders.

A spec says which of the two a part takes (:class:`Piece`): a source ``backbone`` is torchvision's, any other is the
name of a part in a folder of public encoders (:mod:`common.machine.encoder_files`).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float32
from torch import Tensor

from common.errors import ConfigurationError
from common.machine import encoder_files
from common.methods.stages import networks
from common.networks import build, torchvision_shim
from common.networks.layout import Layout
from common.networks.spec import NetworkSpec, Piece
from common.settings import NetworkSettings, Settings

PRETRAINED = ("resnet18", "vgg16", "inception_v3")
"""Backbones for which torchvision has ImageNet weights."""
TORCHVISION = "backbone"
"""The source of a piece that is torchvision's."""


def resolved(settings: Settings) -> Settings:
    """The settings with the hash of their pretrained weights, by which the plan names them.

    Raises:
        ConfigurationError: if pretrained weights are asked for and cannot be had, or do not fit.
        VerificationError: if a folder of public encoders is not as it was written.
    """
    if settings.network.weights == "none":
        return settings
    digest = hashlib.sha256()
    for name, state in sorted(_used(settings).items()):
        for key, tensor in sorted(state.items()):
            digest.update(f"{name}/{key}".encode() if "/" in name else key.encode())
            digest.update(np.ascontiguousarray(tensor.float().numpy(), dtype="<f4").tobytes())
    network = settings.network.model_copy(update={"weights_sha256": digest.hexdigest()})
    return settings.model_copy(update={"network": network})


def _used(settings: Settings) -> dict[str, Mapping[str, Tensor]]:
    """Backbone, or name in a folder of encoders -> its tensors, of all that the method's networks start from."""
    specs = networks(settings).values()
    backbones = {_backbone(spec, settings.network) for spec in specs if _starts_pretrained(spec)}
    sources = {piece.source for spec in specs for piece in spec.pieces if _is_encoder(piece)}
    source = settings.network.weights
    used = {name: _pretrained(name, source) for name in backbones}
    if sources:
        encoder_files.check_fit(encoder_files.read_about(Path(source)), settings, source=source)
    return used | {name: _of_encoder(name, source) for name in sources}


def part(spec: NetworkSpec, settings: NetworkSettings, name: str) -> Float32[Tensor, " size"]:
    """One pretrained part of a network as a flat vector.

    Args:
        spec: the network.
        settings: name the weights.
        name: the part.

    Raises:
        ConfigurationError: if the weights cannot be had or do not fit.
        VerificationError: if a folder of public encoders is not as it was written.
    """
    found = [piece.source for piece in spec.pieces if piece.part == name and _is_encoder(piece)]
    what = found[0] if found else _backbone(spec, settings)
    weights = settings.weights
    state = _of_encoder(what, weights) if found else _pretrained(what, weights)
    return torch.cat(list(_ordered(state, build.part_layout(spec, settings, name), what)))


def backbone_parts(spec: NetworkSpec) -> list[str]:
    """Names of a network's backbones that travel."""
    several = len(spec.images) > 1 or spec.probe is not None
    parts = [f"backbones.{i}" for i in range(len(spec.images))] if several else ["backbone"]
    frozen = {piece.part for piece in spec.frozen}
    return [part for part in parts if part not in frozen]


def _backbone(spec: NetworkSpec, settings: NetworkSettings) -> str:
    return spec.backbone or settings.backbone


def _starts_pretrained(spec: NetworkSpec) -> bool:
    """Whether a network has a part of torchvision's."""
    elsewhere = {piece.part for piece in spec.pieces if piece.network is not None or _is_encoder(piece)}
    pretrained = {piece.part for piece in spec.pieces} - elsewhere
    return bool(pretrained or set(backbone_parts(spec)) - elsewhere)


def _is_encoder(piece: Piece) -> bool:
    return piece.network is None and piece.source != TORCHVISION


def _of_encoder(source: str, folder: str) -> Mapping[str, Tensor]:
    return encoder_files.read(Path(folder)).part(source)


def _pretrained(backbone: str, source: str) -> Mapping[str, Tensor]:
    if backbone not in PRETRAINED:
        raise ConfigurationError(
            f'Expected network.weights = "none" with backbone {backbone}, got {source!r}: only '
            f"{', '.join(PRETRAINED)} have pretrained weights"
        )
    if source == "imagenet":
        return _downloaded(backbone)
    path = Path(source)
    files = sorted(path.glob(f"{backbone}*")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ConfigurationError(
            f'Expected a file of {backbone}\'s weights at {path}, there is none: network.weights is "none", '
            f'"imagenet", or torchvision\'s file of them, or a folder with such files'
        )
    return _read(files[0])


def _downloaded(backbone: str) -> Mapping[str, Tensor]:
    try:
        return torchvision_shim.imagenet(backbone, progress=False)
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"ImageNet weights of {backbone} cannot be downloaded ({error}). Two ways out: bring torchvision's "
            f'file of them here and set network.weights = "path/to/{backbone}.pth", or set network.weights = "none" '
            f"to start at random"
        ) from None


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ConfigurationError(f"Expected weights of a backbone in {path}: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigurationError(f"Expected names and tensors in {path}, got {type(state).__name__}")
    return state


def _ordered(state: Mapping[str, Tensor], wanted: Layout, what: str) -> Iterator[Tensor]:
    for name, shape in wanted.entries:
        tensor = state.get(name)
        if tensor is None or tuple(tensor.shape) != shape:
            got = "none" if tensor is None else f"one of shape {tuple(tensor.shape)}"
            raise ConfigurationError(
                f"Expected {name} of shape {shape} in the pretrained weights of {what}, got {got}"
            )
        yield tensor.float().reshape(-1)
