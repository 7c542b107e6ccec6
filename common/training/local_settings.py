"""What a site needs to know to train one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float32
from torch import Tensor

from common.methods.rounds import network_rounds
from common.networks.spec import NetworkSpec
from common.sections.networks import ImageSettings, NetworkSettings
from common.sections.training import TrainingSettings
from common.settings import Settings

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """What a site needs to know to train one network.

    Attributes:
        spec: the network.
        images: the kinds of all images.
        network: backbone and size.
        training: optimiser, batches, steps, augmentation.
        rounds: rounds of the stage, over which the learning rate's schedule is stretched.
        frozen: part -> flat vector of each part that does not train.
        selects: whether the network's fold chooses among its rounds, by the scores that sites tell of it.
        device: where to compute; bfloat16 autocast on CUDA, float32 elsewhere.
    """

    spec: NetworkSpec
    images: Mapping[str, ImageSettings]
    network: NetworkSettings
    training: TrainingSettings
    rounds: int
    frozen: Mapping[str, Float32[Tensor, " _"]] = field(default_factory=dict)
    selects: bool = True
    device: torch.device = CPU


def local_settings(
    spec: NetworkSpec,
    settings: Settings,
    *,
    device: torch.device = CPU,
    frozen: Mapping[str, Float32[Tensor, " _"]] | None = None,
) -> LocalSettings:
    """How a network of a campaign is trained: as its spec says, or else as the campaign's settings do."""
    return LocalSettings(
        spec=spec,
        images=settings.images,
        network=settings.network,
        training=spec.training or settings.training,
        rounds=network_rounds(spec, settings),
        frozen=frozen or {},
        selects=selects(spec, settings),
        device=device,
    )


def selects(spec: NetworkSpec, settings: Settings) -> bool:
    """Whether sites tell histograms of a network's scores on its fold: not where that fold judges the network."""
    chosen = settings.evaluate.design != "folds" and settings.federation.selection == "best"
    return spec.target.kind != "permutation" and chosen
