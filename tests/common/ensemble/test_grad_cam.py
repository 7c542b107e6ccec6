"""Grad-CAM: a known network's map, the layers that are taken, and heatmaps by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.ensemble import grad_cam
from common.ensemble.heatmaps import HeatmapSettings, heatmaps
from common.errors import ConfigurationError
from common.methods.stages import networks
from common.networks import build
from common.networks.backbones import initialise
from common.settings import parse

SETTINGS = """
name = "cam"
method = "svdh"
images.hands.kind = "grey"
numbers.svdh = {{largest = 280, step = 0.5, images = ["hands"]}}
measurements.severity = {{number = "svdh", edges = [10, 40], images = ["hands"]}}
network = {{image_px = {px}, width = 4}}
federation.selection = "last"
svdh = {{backbones = ["{backbone}"], transfer = "none"}}
rating.folds = 2
"""


class Bright(nn.Module):
    """A backbone whose one channel is the brightness, and whose answer is its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False))
        self.features[0].weight.data = torch.tensor([[1.0, 0, 0], [0.0, 0, 0]]).view(2, 3, 1, 1)

    def forward(self, picture: Tensor) -> Tensor:
        means: Tensor = self.features(picture).mean((2, 3))
        return means


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Bright()

    def forward(self, pictures: list[Tensor]) -> Tensor:
        first: Tensor = self.backbone(pictures[0])[:, :1]
        return first


def test_the_map_is_the_channels_weighted_by_their_mean_gradient() -> None:
    picture = torch.zeros(1, 3, 8, 8)
    picture[:, 0, 2:4, 5:7] = 1.0
    network = Network()
    (found,) = grad_cam.attributed(network, [picture], told=lambda *p: network(list(p))[:, 0])
    # the answer is the mean over 64 pixels, so its gradient is 1/64 everywhere
    assert torch.allclose(found, picture[0, 0] / 64)


@pytest.mark.parametrize(("backbone", "px"), [("small", 32), ("resnet18", 64), ("mobilenet_v2", 64)])
def test_every_backbone_has_a_heatmap_of_its_number(backbone: str, px: int) -> None:
    settings = parse(SETTINGS.format(backbone=backbone, px=px))
    spec = next(s for s in networks(settings).values() if s.target.kind == "regression")
    module = build.network(spec, settings.network)
    initialise(module, torch.Generator().manual_seed(0))
    picture = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(1))
    how = HeatmapSettings(method="grad_cam", cut=0.0)
    assert (how.copies, how.points) == (1, 1)
    (found,) = heatmaps([module.eval()], [picture], settings=how, generator=torch.Generator())
    assert found.shape == (2, px, px)
    assert found.isfinite().all()
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_a_backbone_without_convolutions_is_refused() -> None:
    network = nn.Module()
    network.backbone = nn.Linear(2, 2)
    with pytest.raises(ConfigurationError, match="Expected a backbone with convolutions"):
        grad_cam.attributed(network, [torch.zeros(1, 3, 4, 4)], told=lambda *p: p[0].sum((1, 2, 3)))
