"""RATING's stage 1: a network that puts an image's tiles in order."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from common.networks.backbones import backbone
from common.sections.networks import NetworkSettings

TILES = 9
"""Three rows of three."""


class JigsawNetwork(nn.Module):
    """One backbone for all nine tiles, their features concatenated, an MLP that names the permutation.

    Noroozi and Favaro 2016, figure 3 (context-free network); RATING, stage 1.
    """

    def __init__(self, settings: NetworkSettings, *, permutations: int) -> None:
        super().__init__()
        self.backbone, features = backbone(settings)
        self.head = nn.Sequential(
            nn.Linear(TILES * features, settings.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(settings.hidden, permutations),
        )

    def forward(self, tiles: Sequence[Float[Tensor, "n 9 3 t t"]]) -> Float[Tensor, "n permutations"]:
        """Logits of the permutations."""
        (shuffled,) = tiles
        features = self.backbone(shuffled.flatten(0, 1))
        logits: Tensor = self.head(features.view(len(shuffled), -1))
        return logits
