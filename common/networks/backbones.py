"""Backbones: an image to a vector of features, behind one setting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import ConfigurationError
from common.extensions import is_object_path, make
from common.networks import torchvision_shim
from common.sections.networks import NetworkSettings

CHANNELS = 3
"""Every backbone reads three channels, so that all take the same pictures and ImageNet weights fit."""


class Block(nn.Module):
    """A residual block (He et al. 2016, figure 2) with GroupNorm of one group.

    One group, so no statistic is kept or shared between exams: a full-batch step is the same wherever its
    exams lie. On a CPU it is also the fastest norm in channels-last.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(1, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(1, channels_out)
        same = channels_in == channels_out and stride == 1
        self.stride = stride
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c_out h2 w2"]:
        """Residual of two convolutions.

        The shortcut's stride is that of a pooling of single pixels: oneDNN 3.12 writes out of bounds in the backward
        pass of a 1 x 1 convolution with a stride, channels last, of fewer than 8 channels, on a CPU with AVX2 but not
        AVX-512.
        """
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        skipped = self.shortcut(F.avg_pool2d(x, 1, self.stride) if self.stride > 1 else x)
        return F.relu(self.norm2(self.conv2(y)) + skipped, inplace=True)


class SmallResNet(nn.Module):
    """A ResNet for CPUs: a stem that divides by four, three stages of one block, width w, 2w, 4w.

    A spot of flow is one pixel of a small picture. The stem reads every other pixel and keeps the strongest of four
    answers, and each channel of the last stage gives its mean and its maximum: the mean says how much there is of
    something, the maximum whether there is any.
    """

    def __init__(self, width: int, *, stages: int = 3) -> None:
        super().__init__()
        self.features = 2 * width * 2 ** (stages - 1)
        self.stem = nn.Conv2d(CHANNELS, width, 5, 2, 2, bias=False)
        self.norm = nn.GroupNorm(1, width)
        widths = [width * 2**i for i in range(stages)]
        self.stages = nn.Sequential(
            *(
                Block(a, b, stride=1 if i == 0 else 2)
                for i, (a, b) in enumerate(zip([width, *widths], widths, strict=False))
            )
        )

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Mean and maximum over the picture of every channel."""
        y = F.max_pool2d(F.relu(self.norm(self.stem(x)), inplace=True), 2)
        y = self.stages(y)
        return torch.cat([y.mean((2, 3)), y.amax((2, 3))], dim=1)


LAYERS = {"small": 3, "inception_v3": 11}
"""Backbones whose features can be taken at an earlier layer, and how many layers they have."""
BLOCKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "small": (("stem", "norm"), ("stages.0",), ("stages.1",), ("stages.2",)),
    "resnet18": (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)),
    "mobilenet_v2": tuple((f"features.{block}",) for block in range(19)),
}
"""Backbones of which the last blocks can be trained alone: the parts of each block, from the picture on."""
CONTIGUOUS = ("resnet18",)
"""Backbones whose pictures go through a CPU fastest in contiguous memory, the others' in channels-last.

Weights are contiguous: of pictures in channels-last every pass turns them. ResNet-18, forward and backward of 16
pictures of 64 px: 341 ms of processor time instead of 473.
"""
Built = tuple[nn.Module, int]
_BUILDERS: dict[str, Callable[[NetworkSettings, int], Built]] = {
    "small": lambda settings, layer: _with_features(SmallResNet(settings.width, stages=layer + 1)),
    "resnet18": lambda settings, layer: (torchvision_shim.resnet18(), 512),
    "mobilenet_v2": lambda settings, layer: (torchvision_shim.mobilenet_v2(), 1280),
    "vgg16": lambda settings, layer: (torchvision_shim.vgg16(), 512),
    "inception_v3": lambda settings, layer: torchvision_shim.inception_v3(mixed_layer=layer),
}


def backbone(settings: NetworkSettings, *, layer: int | None = None) -> Built:
    """A backbone, which maps ``(n, 3, h, w)`` to ``(n, features)``, and its number of features.

    Args:
        settings: which, and its width. ``package.module:Name`` is called with the settings and gives a module
            with an attribute ``features``.
        layer: the layer whose features are taken, from 0; ``None``: the last.

    Raises:
        ConfigurationError: if there is no such backbone or layer.
    """
    name = settings.backbone
    if is_object_path(name):
        return _with_features(
            make(name, settings, what="network.backbone", takes="the settings of [network]")
        )
    if name not in _BUILDERS:
        raise ConfigurationError(
            f"Expected network.backbone to be one of {sorted(_BUILDERS)} or package.module:Name, got {name!r}"
        )
    layers = LAYERS.get(name, 1)
    wanted = layers - 1 if layer is None else layer
    if not 0 <= wanted < layers:
        raise ConfigurationError(f"Expected one of the {layers} layers of {name}, got layer {layer}")
    return _BUILDERS[name](settings, wanted)


def _with_features(module: nn.Module) -> Built:
    features = getattr(module, "features", None)
    if not isinstance(features, int):
        raise ConfigurationError(
            f"Expected a backbone with its number of features in .features, got {features!r}"
        )
    return module, features


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights from one generator: He et al. 2015 for convolutions, PyTorch's own rule for the rest.

    Convolutions: N(0, 2 / fan_out), fan_out of a group; bias 0. Linear layers: U(-b, b) with b = 1 / sqrt(fan_in),
    bias alike. Norms: weight 1, bias 0. Other layers, of a user's backbone: their ``reset_parameters``.

    Raises:
        ConfigurationError: if such a layer has none: a network is built without memory, so what its ``__init__``
            wrote is not there.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if (
                module.groups > 1
            ):  # PyTorch counts the other groups' outputs too: 960 times too many in MobileNetV2
                module.weight.mul_(module.groups**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.uniform_(-bound, bound, generator=generator)
            module.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        elif any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            _initialise_otherwise(module, generator)


def _initialise_otherwise(module: nn.Module, generator: torch.Generator) -> None:
    reset = getattr(module, "reset_parameters", None)
    if reset is None:
        raise ConfigurationError(
            f"Expected layers with reset_parameters() in your backbone, {type(module).__name__} has "
            f"weights and none: write one that sets all of them"
        )
    with torch.random.fork_rng(devices=[]):  # such layers draw from the global generator only
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        reset()
