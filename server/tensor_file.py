"""Arrays with metadata in one file, whole or absent; read as :mod:`common.tensor_file` says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from common import atomic
from common.tensor_file import encode, read

__all__ = ["read", "write"]


def write(path: Path, arrays: Mapping[str, Float32[np.ndarray, " n"]], metadata: Mapping[str, str]) -> None:
    """Write a file; with one key of metadata, equal content gives equal bytes."""
    atomic.write(path, encode(arrays, metadata))
