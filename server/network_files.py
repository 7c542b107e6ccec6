"""Trained networks as files: ``networks/<name>.safetensors``, slashes in the name written as dots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from common.errors import DataError
from common.methods.stages import NetworkResult
from common.networks.spec import NetworkSpec, Target
from server import atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedNetwork:
    """A network as its campaign left it: what it is, how it was selected, its flat weights."""

    spec: NetworkSpec
    result: NetworkResult
    weights: Float32[np.ndarray, " parameters"]


def save(
    folder: Path, spec: NetworkSpec, result: NetworkResult, weights: Float32[np.ndarray, " parameters"]
) -> None:
    """Write one network."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"spec": json.dumps(asdict(spec)), "result": json.dumps(asdict(result))}
    content = to_bytes({"weights": np.ascontiguousarray(weights)}, metadata=metadata)
    atomic.write_bytes(folder / f"{spec.name.replace('/', '.')}.safetensors", content)


def load(path: Path) -> TrainedNetwork:
    """Read one network.

    Raises:
        DataError: if the file is none that :func:`save` wrote.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            spec, result = (json.loads(file.metadata()[key]) for key in ("spec", "result"))
            weights = file.get_tensor("weights")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"Expected a trained network at {path}: {error}") from None
    spec |= {"images": tuple(spec["images"]), "target": Target(**spec["target"])}
    return TrainedNetwork(spec=NetworkSpec(**spec), result=NetworkResult(**result), weights=weights)


def load_all(folder: Path) -> Iterator[TrainedNetwork]:
    """All networks of a folder, in the order of their file names."""
    return (load(path) for path in sorted(folder.glob("*.safetensors")))
