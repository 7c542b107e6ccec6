"""Names and tensors from a file of PyTorch's or a safetensors file: no code in it is run."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from common.errors import DataError

UNREADABLE = (
    *(OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError),
    *(UnpicklingError, struct.error, zipfile.BadZipFile, safetensors.SafetensorError),
)
"""What the readers raise at bytes that are neither format: PyTorch's unpickler was seen to raise most of them."""


def read(source: Path | bytes, *, name: str) -> Mapping[str, Tensor]:
    """A state dict, on the CPU.

    Args:
        source: the file, or what it holds.
        name: of the file; ``.safetensors`` at its end tells the format.

    Raises:
        DataError: if it holds anything else than names and tensors.
    """
    try:
        state = _safetensors(source) if name.endswith(".safetensors") else _of_torch(source)
    except UNREADABLE as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"Expected names and tensors in {name}, it cannot be read: {said}") from None
    if not isinstance(state, dict):
        raise DataError(f"Expected names and tensors in {name}, got {type(state).__name__}")
    others = {type(value).__name__ for value in state.values() if not isinstance(value, Tensor)}
    others |= {f"names of type {type(key).__name__}" for key in state if not isinstance(key, str)}
    if others:
        raise DataError(
            f"Expected names and tensors in {name}, got {', '.join(sorted(others)[:3])} among them"
        )
    return state


def _safetensors(source: Path | bytes) -> object:
    return (
        safetensors.torch.load(source) if isinstance(source, bytes) else safetensors.torch.load_file(source)
    )


def _of_torch(source: Path | bytes) -> object:
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    return torch.load(opened, map_location="cpu", weights_only=True)
