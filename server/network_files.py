"""Trained networks as files: ``networks/<name>.safetensors``, slashes in the name written as dots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.committee import Committee
from common.errors import DataError
from common.methods.stages import NetworkResult
from common.networks import build
from common.networks.spec import NetworkSpec
from common.settings import Settings
from server import pretrained, tensor_file


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedNetwork:
    """A network as its campaign left it: what it is, how it was selected, its flat weights."""

    spec: NetworkSpec
    result: NetworkResult
    weights: Float32[np.ndarray, " parameters"]


def path(folder: Path, name: str) -> Path:
    """The file of a network."""
    return folder / f"{name.replace('/', '.')}.safetensors"


def save(folder: Path, network: TrainedNetwork) -> None:
    """Write one network under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    write(path(folder, network.spec.name), network)


def write(file_path: Path, network: TrainedNetwork) -> None:
    """Write one network to a file."""
    # one key: safetensors writes several in no fixed order, and the same network should be the same file
    metadata = {
        "network": json.dumps(
            {"spec": network.spec.model_dump(mode="json"), "result": asdict(network.result)}
        )
    }
    tensor_file.write(file_path, {"weights": network.weights}, metadata)


def load(file_path: Path) -> TrainedNetwork:
    """Read one network.

    Raises:
        DataError: if the file is none that :func:`save` wrote.
    """
    try:
        metadata, tensors = tensor_file.read(file_path)
        network = json.loads(metadata["network"])
        return TrainedNetwork(
            spec=NetworkSpec.model_validate(network["spec"]),
            result=NetworkResult(**network["result"]),
            weights=tensors["weights"],
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

    def frozen(spec: NetworkSpec) -> dict[str, Float32[Tensor, " _"]]:
        return {
            piece.part: build.part(
                by_name[piece.network].spec, settings.network, flat(piece.network), piece.source
            )
            if piece.network is not None
            else pretrained.part(spec, settings, piece.part)
            for piece in spec.frozen
        }

    return [build.assembled(spec, settings.network, flat(spec.name), frozen(spec)) for spec in wanted]


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
