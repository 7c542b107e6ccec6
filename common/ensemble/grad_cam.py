"""Grad-CAM (Selvaraju et al. 2017): where the last convolutions speak for an answer (captum's ``LayerGradCam``).

The channels of a backbone's last feature maps, each weighted by the mean of the answer's gradient over it, added up
and brought to the size of the picture. Its grain is that of the maps: a 32nd of the side for ResNet-18. Which layer
Bo et al. take is not told; here it is the last one that still has places, before they are averaged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from jaxtyping import Float, Float32
from torch import Tensor, nn

from common.errors import ConfigurationError

LAST = ("stages", "layer4", "features")
"""Names of what gives the last maps in the small backbone, in ResNet-18, in MobileNetV2 and VGG-16."""
_hooks = threading.Lock()
"""Captum hangs hooks on a network, through which another thread's pictures must not pass."""


def attributed(
    module: nn.Module,
    pictures: Sequence[Float[Tensor, "n 3 h w"]],
    *,
    told: Callable[..., Float[Tensor, " n"]],
) -> list[Float32[Tensor, "h w"]]:
    """Of each image the map, averaged over the pictures, on the CPU; with its sign.

    Args:
        module: a network with ``backbone``, or with ``backbones``, one an image.
        pictures: as it reads them.
        told: pictures -> what is explained.

    Raises:
        ConfigurationError: if the network has no such backbones.
    """
    from captum.attr import LayerAttribution, LayerGradCam  # noqa: PLC0415  (it loads matplotlib; few runs need it)

    found = []
    for layer, picture in zip(_layers(module), pictures, strict=True):
        with _hooks:
            values = LayerGradCam(told, layer).attribute(tuple(pictures))
        size = (int(picture.shape[2]), int(picture.shape[3]))
        larger: Tensor = LayerAttribution.interpolate(values, size, interpolate_mode="bilinear")
        found.append(larger.detach().float().sum(1).mean(0).cpu())
    return found


def _layers(module: nn.Module) -> list[nn.Module]:
    several = getattr(module, "backbones", None)
    backbones = list(several) if isinstance(several, nn.ModuleList) else [getattr(module, "backbone", None)]
    found = [_last(backbone) for backbone in backbones]
    known = [layer for layer in found if layer is not None]
    if len(known) < len(found):
        raise ConfigurationError(
            "Expected a backbone with convolutions for Grad-CAM, got another: explain it by integrated gradients"
        )
    return known


def _last(backbone: nn.Module | None) -> nn.Module | None:
    """What gives the last maps: a part that is known, else the last convolution."""
    if backbone is None:
        return None
    children = dict(backbone.named_children())
    named = [children[name] for name in LAST if name in children]
    convolutions = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    return (named or convolutions[-1:] or [None])[-1]
