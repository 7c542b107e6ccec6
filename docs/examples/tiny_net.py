"""A backbone of one's own: two convolutions.

    network.backbone = "tiny_net:TinyNet"

A backbone is called with the network's settings. It maps pictures ``(n, 3, side, side)`` to vectors of features and
says in ``features`` how many these are; heads, fusion, flat weights and rounds come from synofed. It is built without
memory, and its weights are drawn from the run's seed afterwards (``common.networks.backbones.initialise``): a layer
with weights that PyTorch does not know has to have a ``reset_parameters`` that sets all of them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from common.sections.networks import NetworkSettings


class TinyNet(nn.Module):
    """Two strided convolutions with GroupNorm, then the mean over the picture."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.features = 2 * settings.width
        self.conv1 = nn.Conv2d(3, settings.width, 5, stride=4, padding=2, bias=False)
        self.norm1 = nn.GroupNorm(1, settings.width)
        self.conv2 = nn.Conv2d(settings.width, self.features, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(1, self.features)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of each picture."""
        middle = F.relu(self.norm1(self.conv1(pictures)))
        return F.relu(self.norm2(self.conv2(middle))).mean((2, 3))
