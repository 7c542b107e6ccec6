"""Which networks of an ensemble heatmaps explain, and what lies under a heatmap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from common.ensemble.committee import Committee
from common.ensemble.heatmaps import networks_above_zero, overlay


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The networks of an ensemble that heatmaps explain.

    Attributes:
        modules: ready to be asked.
        images: what they read, in their order.
        measurement: whose grade > 0 they answer, or the number that they give.
        number: whether it is one.
        seed: of the run, for the noise.
        device: where they are.
    """

    modules: tuple[nn.Module, ...]
    images: tuple[str, ...]
    measurement: str
    number: bool
    seed: int
    device: torch.device

    @property
    def question(self) -> str:
        """What the heatmaps are about."""
        name = self.measurement.replace("_", " ").lower()
        return f"what speaks for a high {name}" if self.number else f"what speaks for {name} > 0"

    def generator(self) -> torch.Generator:
        """Of the noise; the same each time."""
        return torch.Generator().manual_seed(self.seed)


def explained(committee: Committee) -> Explained:
    """The networks of a committee that heatmaps explain.

    Raises:
        ConfigurationError: if its method has none.
    """
    settings = committee.settings
    chosen = networks_above_zero(committee.specs, measurements=list(settings.measurements))
    modules = dict(zip((spec.name for spec in committee.specs), committee.modules, strict=True))
    return Explained(
        modules=tuple(modules[spec.name] for spec in chosen),
        images=chosen[0].images,
        measurement=chosen[0].target.measurement,
        number=chosen[0].target.kind == "regression",
        seed=settings.seed,
        device=committee.device,
    )


def under(picture: np.ndarray, heatmap: Float[Tensor, "h w"]) -> np.ndarray:
    """A picture ``uint8 (height, width[, 3])`` of any size under a heatmap, which is brought to that size."""
    size = (int(picture.shape[0]), int(picture.shape[1]))
    larger = F.interpolate(heatmap[None, None], size=size, mode="bilinear", align_corners=False)
    return overlay(picture, larger[0, 0].clamp(0, 1).numpy())
