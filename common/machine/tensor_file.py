"""Arrays with metadata as one safetensors file: the one typed door to an untyped library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from jaxtyping import Float32

from common.errors import DataError
from common.machine import atomic

DTYPES = {"int64": "I64", "float64": "F64", "float32": "F32"}
"""numpy's names of types of numbers and the file's, in the order in which arrays stand in it."""


def parts(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """What a file holds, piece by piece: a header, then the arrays where they lie.

    With one key of metadata, equal content gives equal bytes. The library's own ``save`` gives the same, and copies
    each array three times on the way.
    """
    layout: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    buffers = []
    end = 0
    order = list(DTYPES)
    for name, values in sorted(arrays.items(), key=lambda item: (order.index(item[1].dtype.name), item[0])):
        raw = values.astype(values.dtype.newbyteorder("<"), order="C", copy=False)
        begin, end = end, end + raw.nbytes
        layout[name] = {"dtype": DTYPES[raw.dtype.name], "shape": raw.shape, "data_offsets": [begin, end]}
        buffers.append(raw.data.cast("B") if raw.nbytes else memoryview(b""))
    header = json.dumps(layout, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little") + header, *buffers]


def write(path: Path, arrays: Mapping[str, Float32[np.ndarray, " n"]], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all; its content as :func:`parts` says."""
    atomic.write(path, parts(arrays, metadata))


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
