"""RATING's networks: one backbone per image, and a head over their features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.networks.backbones import backbone
from common.settings import NetworkSettings


class ImageNetwork(nn.Module):
    """One image: a backbone and a linear layer (RATING's vascularity network)."""

    def __init__(self, settings: NetworkSettings, *, classes: int, layer: int | None = None) -> None:
        super().__init__()
        self.backbone, features = backbone(settings, layer=layer)
        self.head = nn.Linear(features, classes)

    def forward(self, pictures: Sequence[Float[Tensor, "n 3 h w"]]) -> Float[Tensor, "n classes"]:
        """Logits."""
        (picture,) = pictures
        logits: Tensor = self.head(self.backbone(picture))
        return logits


class FusionNetwork(nn.Module):
    """Several images: a backbone each (F on grey-scale, G on Doppler), their features concatenated, an MLP H.

    For RATING's two ResNet-18: 512 + 512 -> 256 -> 2 (Zhou et al. 2022, GS-Doppler fusion network).
    """

    def __init__(self, settings: NetworkSettings, *, images: int, classes: int) -> None:
        super().__init__()
        built = [backbone(settings) for _ in range(images)]
        self.backbones = nn.ModuleList(module for module, _ in built)
        self.head = nn.Sequential(
            nn.Linear(sum(features for _, features in built), settings.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(settings.hidden, classes),
        )

    def forward(self, pictures: Sequence[Float[Tensor, "n 3 h w"]]) -> Float[Tensor, "n classes"]:
        """Logits."""
        features = [module(picture) for module, picture in zip(self.backbones, pictures, strict=True)]
        logits: Tensor = self.head(torch.cat(features, dim=1))
        return logits
