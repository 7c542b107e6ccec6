"""RATING's networks: one backbone per image, and a head over their features.

Of a moving picture the same backbone reads every frame, and the mean and the maximum over time of each feature go to
the head: how much there is of something on the whole, and whether there ever was any. So the order of frames changes
nothing, the backbone is that of a still, and static and dynamic networks differ by the clip alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.networks.backbones import backbone
from common.sections.networks import NetworkSettings


def features(module: nn.Module, picture: Float[Tensor, "n *frames 3 h w"]) -> Float[Tensor, "n features"]:
    """A backbone's features of stills; of clips their mean and their maximum over the frames."""
    if picture.ndim == 4:
        found: Tensor = module(picture)
        return found
    frames = module(picture.flatten(0, 1)).unflatten(0, picture.shape[:2])
    return torch.cat([frames.mean(dim=1), frames.amax(dim=1)], dim=1)


def pooled(features: int, *, moves: bool) -> int:
    """How many numbers :func:`features` has of a backbone with this many."""
    return 2 * features if moves else features


class ImageNetwork(nn.Module):
    """One image: a backbone and a linear layer (RATING's vascularity network)."""

    def __init__(
        self, settings: NetworkSettings, *, classes: int, layer: int | None = None, moves: bool = False
    ) -> None:
        super().__init__()
        self.backbone, count = backbone(settings, layer=layer)
        self.head = nn.Linear(pooled(count, moves=moves), classes)

    def forward(self, pictures: Sequence[Float[Tensor, "n ... 3 h w"]]) -> Float[Tensor, "n classes"]:
        """Logits."""
        (picture,) = pictures
        logits: Tensor = self.head(features(self.backbone, picture))
        return logits


class FusionNetwork(nn.Module):
    """Several images: a backbone each (F on grey-scale, G on Doppler), their features concatenated, an MLP H.

    For RATING's two ResNet-18: 512 + 512 -> 256 -> 2 (Zhou et al. 2022, GS-Doppler fusion network).
    """

    def __init__(self, settings: NetworkSettings, *, moves: Sequence[bool], classes: int) -> None:
        super().__init__()
        built = [backbone(settings) for _ in moves]
        self.backbones = nn.ModuleList(module for module, _ in built)
        counts = [pooled(count, moves=clip) for (_, count), clip in zip(built, moves, strict=True)]
        self.head = nn.Sequential(
            nn.Linear(sum(counts), settings.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(settings.hidden, classes),
        )

    def forward(self, pictures: Sequence[Float[Tensor, "n ... 3 h w"]]) -> Float[Tensor, "n classes"]:
        """Logits."""
        found = [features(module, picture) for module, picture in zip(self.backbones, pictures, strict=True)]
        logits: Tensor = self.head(torch.cat(found, dim=1))
        return logits
