"""Affine parameters of backbones' norms that move, while all else of the backbones stays."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.errors import ConfigurationError
from common.networks.layout import norm_layers
from common.networks.twins import twin


class NormMoves(nn.Module):
    """How far norms' weights and biases lie from where the backbones have them: one vector that starts at zero.

    Args:
        backbones: whose norms they are.
        unit: the length of a move of one.

    Raises:
        ConfigurationError: if a backbone has no norm with weights.
    """

    def __init__(self, backbones: nn.ModuleList, *, unit: float) -> None:
        super().__init__()
        self._names = [_names(backbone) for backbone in backbones]
        self._unit = unit
        sizes = [p.numel() for p in self._tensors(backbones)]
        self.moves = nn.Parameter(torch.empty(sum(sizes)))

    def reset_parameters(self) -> None:
        """Nothing has moved."""
        nn.init.zeros_(self.moves)

    def moved(self, backbones: nn.ModuleList, moves: Float[Tensor, " moves"]) -> list[nn.Module]:
        """The backbones with their norms after such moves; they themselves stay as they are."""
        parts = iter(moves.split([p.numel() for p in self._tensors(backbones)]))
        return [
            twin(backbone, {name: backbone.get_parameter(name) + self._unit * next(parts) for name in names})
            for backbone, names in zip(backbones, self._names, strict=True)
        ]

    def _tensors(self, backbones: nn.ModuleList) -> list[nn.Parameter]:
        pairs = zip(backbones, self._names, strict=True)
        return [backbone.get_parameter(name) for backbone, names in pairs for name in names]


def _names(backbone: nn.Module) -> tuple[str, ...]:
    owners = norm_layers(backbone)
    found = tuple(name for name, _ in backbone.named_parameters() if name.rpartition(".")[0] in owners)
    if not found:
        raise ConfigurationError(
            f'Expected norms with weights in the backbone for probe.train = "norms", {type(backbone).__name__} has '
            f'none: set probe.train = "heads"'
        )
    return found
