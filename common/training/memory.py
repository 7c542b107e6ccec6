"""Whether a device had too little memory: PyTorch has more than one error for it."""

from __future__ import annotations

import re

import torch

_SAID = re.compile(r"CUDA (driver )?error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
"""By a card that has no room for a process's context or for the workspace of a library."""


def ran_out(error: BaseException) -> bool:
    """Whether that is what an error says: of PyTorch's allocator, of CUDA itself, or of its libraries."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _SAID.search(str(error)) is not None
    )
