"""A linear probe: a trained linear head on the features of public backbones, whose norms may train with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from common.networks.backbones import backbone
from common.networks.fusion import features, pooled
from common.networks.norms import NormMoves
from common.sections.networks import NetworkSettings


class ProbeNetwork(nn.Module):
    """One backbone per image, a public projection ("neck") of their features, and a linear head.

    The features of a picture are scaled to unit length, by nothing but themselves: a head's gradient over one picture
    is then at most 2 long, whatever the picture (softmax minus one-hot is at most sqrt(2), the input with its bias
    sqrt(2)).

    Args:
        settings: of the backbones.
        moves: of each image whether it moves.
        classes: that are told apart.
        neck: how many numbers it gives; ``None``: there is none.
        norms: the unit of the norms' moves (:class:`.NormMoves`); ``None``: the norms stay.

    Raises:
        ConfigurationError: if norms are to move and a backbone has none.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        *,
        moves: Sequence[bool],
        classes: int,
        neck: int | None,
        norms: float | None = None,
    ) -> None:
        super().__init__()
        built = [backbone(settings) for _ in moves]
        size = sum(pooled(count, moves=clip) for (_, count), clip in zip(built, moves, strict=True))
        self.backbones = nn.ModuleList(module for module, _ in built)
        self.neck: nn.Module = nn.Identity() if neck is None else nn.Linear(size, neck)
        self.head = nn.Linear(size if neck is None else neck, classes)
        self.norms = None if norms is None else NormMoves(self.backbones, unit=norms)

    def features(self, pictures: Sequence[Float[Tensor, "n ... 3 h w"]]) -> Float[Tensor, "n features"]:
        """What the head reads: unit vectors."""
        moves = None if self.norms is None else self.norms.moves
        return F.normalize(self._necked(moves, pictures), dim=1)

    def read(self, pictures: Sequence[Float[Tensor, "n ... 3 h w"]]) -> Float[Tensor, "n numbers"]:
        """What training needs of the pictures: the head's features.

        Where norms train, those before they are scaled to unit length, and behind them the derivatives of each by
        each move, where nothing has moved.
        """
        if self.norms is None:
            return self.features(pictures)
        still = torch.zeros_like(self.norms.moves)

        def one(moves: Tensor, *exam: Tensor) -> Tensor:
            return self._necked(moves, [picture[None] for picture in exam])[0]

        slopes: Tensor = vmap(jacrev(one), in_dims=(None, *(0 for _ in pictures)))(still, *pictures)
        return torch.cat([self._necked(None, pictures), slopes.flatten(1)], dim=1)

    def _necked(
        self, moves: Float[Tensor, " moves"] | None, pictures: Sequence[Float[Tensor, "n ... 3 h w"]]
    ) -> Float[Tensor, "n features"]:
        modules = list(self.backbones)
        if self.norms is not None and moves is not None:
            modules = self.norms.moved(self.backbones, moves)
        found = [features(module, picture) for module, picture in zip(modules, pictures, strict=True)]
        numbers: Tensor = self.neck(torch.cat(found, dim=1))
        return numbers

    def forward(self, pictures: Sequence[Float[Tensor, "n ... 3 h w"]]) -> Float[Tensor, "n classes"]:
        """Logits."""
        logits: Tensor = self.head(self.features(pictures))
        return logits
