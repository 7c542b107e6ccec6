"""The only place that imports torchvision, and only when a network needs it.

The torchvision wheel that matches the CPU build of torch is a CUDA build, which fails at import because its
compiled operators are missing; declaring their two schemas first is enough for the models used here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from pathlib import Path
from typing import cast

import torch
from torch import nn

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_lock = threading.Lock()
_libraries: list[torch.library.Library] = []


def resnet18() -> nn.Module:
    """ResNet-18 (He et al. 2016) without its classifier: ``(n, 3, h, w)`` -> ``(n, 512)``; random weights."""
    with _lock:
        _declare_missing_operators()
        from torchvision.models import resnet18 as build  # noqa: PLC0415
    network = cast(nn.Module, build(weights=None))
    network.fc = nn.Identity()
    return network


def _declare_missing_operators() -> None:
    if _libraries or _operators_load():
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)  # a library's operators live as long as it does


def _operators_load() -> bool:
    """Whether the compiled operators fit this torch; declared a second time, they would end the process."""
    found = importlib.util.find_spec("torchvision")
    folders = found.submodule_search_locations if found is not None else None
    for compiled in (path for folder in folders or () for path in Path(folder).glob("_C*.so")):
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(compiled))
    return hasattr(torch.ops.torchvision, "nms")
