"""Trained networks as files: ``networks/<name>.safetensors``, slashes in the name written as dots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.ensemble.committee import Committee
from common.errors import DataError
from common.machine import atomic, pretrained, tensor_file
from common.methods.stages import NetworkResult
from common.networks import build
from common.networks.spec import NetworkSpec, Piece
from common.settings import Settings
from common.text.file_names import file_name

FROZEN = "frozen:"
"""Before a frozen part's name in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedNetwork:
    """A network as its campaign left it.

    Attributes:
        spec: what it is.
        result: how it was selected.
        weights: flat.
        frozen: part -> flat weights of frozen parts that no other network of the campaign has, where they come
            along; else they are the pretrained weights that the settings name.
    """

    spec: NetworkSpec
    result: NetworkResult
    weights: Float32[np.ndarray, " parameters"]
    frozen: Mapping[str, Float32[np.ndarray, " _"]] = field(default_factory=dict)


def path(folder: Path, name: str) -> Path:
    """The file of a network."""
    return folder / f"{file_name(name)}.safetensors"


def encode(network: TrainedNetwork) -> bytes:
    """What the file of one network holds."""
    # one key: safetensors writes several in no fixed order, and the same network should be the same file
    metadata = {
        "network": json.dumps(
            {"spec": network.spec.model_dump(mode="json"), "result": asdict(network.result)}
        )
    }
    given = {f"{FROZEN}{part}": values for part, values in network.frozen.items()}
    return tensor_file.encode({"weights": network.weights, **given}, metadata)


def save(folder: Path, network: TrainedNetwork) -> None:
    """Write one network under its name, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write(path(folder, network.spec.name), network)


def write(file_path: Path, network: TrainedNetwork) -> None:
    """Write one network to a file, whole or not at all."""
    atomic.write(file_path, encode(network))


def load(file_path: Path) -> TrainedNetwork:
    """Read one network.

    Raises:
        DataError: if the file is none that holds :func:`encode`'s bytes.
    """
    try:
        metadata, tensors = tensor_file.read(file_path)
        network = json.loads(metadata["network"])
        return TrainedNetwork(
            spec=NetworkSpec.model_validate(network["spec"]),
            result=NetworkResult(**network["result"]),
            weights=tensors.pop("weights"),
            frozen={name.removeprefix(FROZEN): values for name, values in tensors.items()},
        )
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"Expected a trained network at {file_path}: {error}") from None


def load_all(folder: Path) -> Iterator[TrainedNetwork]:
    """All networks of a folder, in the order of their file names."""
    return (load(found) for found in sorted(folder.glob("*.safetensors")))


def modules(
    networks: Sequence[TrainedNetwork], wanted: Sequence[NetworkSpec], settings: Settings
) -> list[nn.Module]:
    """Networks ready to be asked; frozen parts are views into the networks that they come from.

    Args:
        networks: the wanted ones and all that they are built on.
        wanted: which.
        settings: of the campaign.

    Raises:
        DataError: if a network is missing.
    """
    by_name = {network.spec.name: network for network in networks}

    def flat(name: str) -> Float32[Tensor, " _"]:
        if name not in by_name:
            raise DataError(f"Expected the network {name} among the trained ones, it is missing")
        return torch.from_numpy(by_name[name].weights)

    def frozen(spec: NetworkSpec, piece: Piece) -> Float32[Tensor, " _"]:
        if piece.network is not None:
            weights = flat(piece.network)
            return build.part(by_name[piece.network].spec, settings.network, weights, piece.source)
        if piece.part in by_name[spec.name].frozen:
            return torch.from_numpy(by_name[spec.name].frozen[piece.part])
        return pretrained.part(spec, settings, piece.part)

    return [
        build.assembled(
            spec,
            settings.network,
            flat(spec.name),
            {piece.part: frozen(spec, piece) for piece in spec.frozen},
        )
        for spec in wanted
    ]


def committee(networks: Sequence[TrainedNetwork], settings: Settings) -> Committee:
    """The ensemble of a campaign's networks; those that do not score are only built on.

    Args:
        networks: in the order of its columns.
        settings: of the campaign.
    """
    scoring = [network for network in networks if network.spec.scoring]
    specs = tuple(network.spec for network in scoring)
    return Committee(
        specs=specs,
        modules=tuple(modules(networks, specs, settings)),
        thresholds=tuple(network.result.threshold for network in scoring),
        settings=settings,
    )
