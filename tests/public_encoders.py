"""A factory of public encoders with random weights: quick, and of the right shapes."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.machine import encoder_files
from common.machine.encoder_files import About, Machine
from common.methods.stages import networks
from common.networks import build
from common.networks.layout import Layout
from common.sections.networks import NetworkSettings
from common.settings import Settings


def make_encoders(folder: Path, settings: Settings, *, seed: int = 0) -> Path:
    """Write the encoders that a campaign of method ``probe`` starts from.

    Returns:
        ``folder``.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for spec in networks(settings).values():
        for piece in spec.pieces:
            if piece.source not in tensors:
                layout = build.part_layout(spec, settings.network, piece.part)
                tensors |= _random(piece.source, layout, generator)
    folder.mkdir(parents=True)
    about = About(
        name="random",
        seed=seed,
        machines=(Machine(name="none", profile="0" * 64),),
        exams=1,
        encoders=settings.probe.encoders,
        backbone=settings.network.backbone,
        width=settings.network.width,
        image_px=settings.network.image_px,
        neck=settings.probe.neck or 1,
        images=dict(settings.images),
        measurements=dict(settings.measurements),
        kappa={},
        versions={},
        settings={},
        sha256="",
    )
    encoder_files.write(folder, about, tensors)
    return folder


def _random(source: str, layout: Layout, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        f"{source}/{name}": torch.randn(shape, generator=generator) * 0.1 for name, shape in layout.entries
    }


class OwnEncoder(nn.Module):
    """An encoder of a user's own: ``tests.public_encoders:OwnEncoder``."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.features = 5
        self.convolution = nn.Conv2d(3, self.features, 3, stride=settings.image_px // 8)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Means over the picture."""
        found: Tensor = self.convolution(x).mean((2, 3))
        return found
