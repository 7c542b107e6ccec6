"""Trained networks as files: ``networks/<name>.safetensors``, slashes in the name written as dots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from common.committee import Committee
from common.errors import DataError
from common.methods.stages import NetworkResult
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings
from server import tensor_file


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedNetwork:
    """A network as its campaign left it: what it is, how it was selected, its flat weights."""

    spec: NetworkSpec
    result: NetworkResult
    weights: Float32[np.ndarray, " parameters"]


def path(folder: Path, name: str) -> Path:
    """The file of a network."""
    return folder / f"{name.replace('/', '.')}.safetensors"


def save(
    folder: Path, spec: NetworkSpec, result: NetworkResult, weights: Float32[np.ndarray, " parameters"]
) -> None:
    """Write one network."""
    folder.mkdir(parents=True, exist_ok=True)
    # one key: safetensors writes several in no fixed order, and the same network should be the same file
    metadata = {"network": json.dumps({"spec": asdict(spec), "result": asdict(result)})}
    tensor_file.write(path(folder, spec.name), {"weights": weights}, metadata)


def load(file_path: Path) -> TrainedNetwork:
    """Read one network.

    Raises:
        DataError: if the file is none that :func:`save` wrote.
    """
    try:
        metadata, tensors = tensor_file.read(file_path)
        network, weights = json.loads(metadata["network"]), tensors["weights"]
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"Expected a trained network at {file_path}: {error}") from None
    spec = network["spec"] | {
        "images": tuple(network["spec"]["images"]),
        "target": Target(**network["spec"]["target"]),
    }
    return TrainedNetwork(
        spec=NetworkSpec(**spec), result=NetworkResult(**network["result"]), weights=weights
    )


def load_all(folder: Path) -> Iterator[TrainedNetwork]:
    """All networks of a folder, in the order of their file names."""
    return (load(found) for found in sorted(folder.glob("*.safetensors")))


def committee(networks: Sequence[TrainedNetwork], settings: Settings) -> Committee:
    """The ensemble of a campaign's networks.

    Args:
        networks: in the order of its columns.
        settings: of the campaign.
    """
    return Committee(
        specs=tuple(network.spec for network in networks),
        weights={network.spec.name: torch.from_numpy(network.weights) for network in networks},
        thresholds=np.array([network.result.threshold for network in networks], dtype=np.float32),
        settings=settings,
    )
