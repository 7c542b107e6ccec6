"""A linear probe: a trained linear head on the features of frozen, public backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from common.networks.backbones import backbone
from common.networks.fusion import features, pooled
from common.sections.networks import NetworkSettings


class ProbeNetwork(nn.Module):
    """One backbone per image, a public projection ("neck") of their features, and a linear head.

    The features of a picture are scaled to unit length, by nothing but themselves: a head's gradient over one picture
    is then at most 2 long, whatever the picture (softmax minus one-hot is at most sqrt(2), the input with its bias
    sqrt(2)).
    """

    def __init__(
        self, settings: NetworkSettings, *, moves: Sequence[bool], classes: int, neck: int | None
    ) -> None:
        super().__init__()
        built = [backbone(settings) for _ in moves]
        size = sum(pooled(count, moves=clip) for (_, count), clip in zip(built, moves, strict=True))
        self.backbones = nn.ModuleList(module for module, _ in built)
        self.neck: nn.Module = nn.Identity() if neck is None else nn.Linear(size, neck)
        self.head = nn.Linear(size if neck is None else neck, classes)

    def features(self, pictures: Sequence[Float[Tensor, "n ... 3 h w"]]) -> Float[Tensor, "n features"]:
        """What the head reads: unit vectors."""
        found = [features(module, picture) for module, picture in zip(self.backbones, pictures, strict=True)]
        return F.normalize(self.neck(torch.cat(found, dim=1)), dim=1)

    def forward(self, pictures: Sequence[Float[Tensor, "n ... 3 h w"]]) -> Float[Tensor, "n classes"]:
        """Logits."""
        logits: Tensor = self.head(self.features(pictures))
        return logits
