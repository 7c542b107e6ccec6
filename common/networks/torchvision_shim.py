"""The only place that imports torchvision, and only when a network needs it.

The torchvision wheel that matches the CPU build of torch is a CUDA build, which fails at import because its
compiled operators are missing; declaring their two schemas first is enough for the models used here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
MIXED_FEATURES = (256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048)
"""Features of Inception-v3's mixed layers 0-10."""
_lock = threading.Lock()
_libraries: list[torch.library.Library] = []


def resnet18() -> nn.Module:
    """ResNet-18 (He et al. 2016) without its classifier: ``(n, 3, h, w)`` -> ``(n, 512)``; random weights."""
    network = cast(nn.Module, _models().resnet18(weights=None))
    network.fc = nn.Identity()
    return network


def mobilenet_v2() -> nn.Module:
    """The convolutions of MobileNetV2 (Sandler et al. 2018), averaged over the picture: ``(n, 1280)``."""
    return _averaged(_models().mobilenet_v2(weights=None).features)


def vgg16() -> nn.Module:
    """The convolutions of VGG-16 (Simonyan and Zisserman 2015), averaged over the picture: ``(n, 512)``."""
    return _averaged(_models().vgg16(weights=None).features)


def _averaged(features: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))


def inception_v3(*, mixed_layer: int) -> tuple[nn.Module, int]:
    """Inception-v3 (Szegedy et al. 2016) up to one of its mixed layers 0-10, averaged over the picture.

    Returns:
        The network, ``(n, 3, h, w)`` -> ``(n, features)``, and its number of features. Pictures need a side of at
        least 75.
    """
    whole = _models().inception_v3(weights=None, aux_logits=False, init_weights=False)
    children = OrderedDict(whole.named_children())
    last = list(children).index(next(n for n in children if n.startswith("Mixed"))) + mixed_layer
    kept = OrderedDict(list(children.items())[: last + 1])
    pooled = nn.Sequential(OrderedDict(**kept, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    return pooled, MIXED_FEATURES[mixed_layer]


def imagenet(backbone: str, *, progress: bool) -> Mapping[str, torch.Tensor]:
    """Torchvision's ImageNet weights of a backbone, downloaded or from its cache.

    Raises:
        OSError: if they are not there and cannot be downloaded.
    """
    weights = _models().get_model_weights(backbone).IMAGENET1K_V1
    return cast(Mapping[str, torch.Tensor], weights.get_state_dict(progress=progress, check_hash=True))


def _models() -> Any:
    with _lock:
        _declare_missing_operators()
        from torchvision import models  # noqa: PLC0415
    return models


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
