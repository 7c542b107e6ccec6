"""Arrays with metadata as one safetensors file: the one typed door to an untyped library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from jaxtyping import Float32
from safetensors.numpy import save

from common.errors import DataError
from common.machine import atomic


def encode(arrays: Mapping[str, Float32[np.ndarray, " n"]], metadata: Mapping[str, str]) -> bytes:
    """What a file holds; with one key of metadata, equal content gives equal bytes."""
    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    return save(contiguous, metadata=dict(metadata))


def write(path: Path, arrays: Mapping[str, Float32[np.ndarray, " n"]], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all; its content as :func:`encode` says."""
    atomic.write(path, encode(arrays, metadata))


def read(path: Path, *, tensors: bool = True) -> tuple[dict[str, str], dict[str, Float32[np.ndarray, " n"]]]:
    """Metadata and, unless told otherwise, arrays of a file.

    Raises:
        DataError: if it is no such file.
    """
    try:
        opened: Any = safetensors.safe_open(path, framework="numpy")
        with opened as file:
            names = file.keys() if tensors else ()
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{path.name}: {error}") from None
