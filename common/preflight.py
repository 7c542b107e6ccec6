"""Whether a plan's networks can take a step at all: tried before anything is trained, by all who begin something.

Nothing here knows of particular networks. One of each shape is built without memory and takes a step's forward pass;
what PyTorch would say in the first round it says now. One that fails is tried again with real numbers, which decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.errors import ConfigurationError, SynofedError
from common.methods.stages import networks
from common.networks import build
from common.networks.backbones import initialise
from common.networks.jigsaw import TILES
from common.networks.spec import NetworkSpec
from common.sections.networks import NetworkSettings
from common.settings import Settings
from common.training.local_settings import local_settings

LARGEST_PX = 1024
"""Sides that are tried when the smallest that works is looked for."""
FRAMES = 2
"""Of clips that are tried: whether a network works does not depend on how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A network, and the batch that it is to learn from."""

    spec: NetworkSpec
    network: NetworkSettings
    exams: int
    side_px: int

    @property
    def trouble(self) -> str:
        """What PyTorch says of a training step's forward pass; empty if it works."""
        return self.said("meta") and self.said("cpu")

    def said(self, device: str) -> str:
        """The same on one device: on ``meta`` nothing is computed, only shapes."""
        try:
            module = self._built(device)
            with torch.no_grad():
                _in_training(module, self.spec)(self._pictures(device))
        except SynofedError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}"
        return ""

    def _built(self, device: str) -> nn.Module:
        if device == "meta":
            return build.described(self.spec, self.network)
        module = build.network(self.spec, self.network)
        initialise(module, torch.Generator().manual_seed(0))
        return module

    def _pictures(self, device: str) -> list[Tensor]:
        tiles = () if self.spec.jigsaw is None else (TILES,)
        picture = (*tiles, 3, self.side_px, self.side_px)
        frames = dict.fromkeys(self.spec.clips, (FRAMES,))
        shapes = [(self.exams, *frames.get(image, ()), *picture) for image in self.spec.images]
        return [torch.zeros(shape, device=device) for shape in shapes]


def check(settings: Settings) -> None:
    """Whether every network of a plan can be built and can learn from batches as the plan has them.

    Raises:
        ConfigurationError: if one cannot: pictures too small for its layers, a norm over a batch of one value, a norm
            that keeps statistics under differential privacy, or anything else that it would raise in the first round.
    """
    tried: set[object] = set()
    for spec in networks(settings).values():
        training = local_settings(spec, settings).training
        exams = 1 if training.sampling != "all" and training.batch_size == 1 else 2
        key = (spec.shape, exams)
        if key in tried:
            continue
        tried.add(key)
        side_px = settings.network.image_px if spec.jigsaw is None else spec.jigsaw.tile_px
        trial = _Trial(spec=spec, network=settings.network, exams=exams, side_px=side_px)
        if trial.trouble:
            raise ConfigurationError(_refusal(trial))
        if settings.private and spec.probe is None:
            _check_privately(spec, settings)


def _refusal(trial: _Trial) -> str:
    backbone = trial.spec.backbone or trial.network.backbone
    what = "pictures" if trial.spec.jigsaw is None else "tiles"
    exams = "1 exam" if trial.exams == 1 else f"{trial.exams} exams or more"
    return (
        f"Expected networks that can learn from {what} of {trial.side_px} px in batches of {exams}, {backbone} "
        f"({trial.spec.name}) cannot: {trial.trouble}. {_advice(trial)}"
    )


def _advice(trial: _Trial) -> str:
    """What would help: found by trying."""
    ways = []
    if trial.exams == 1 and not replace(trial, exams=2).trouble:
        ways.append(
            "set training.batch_size (or that of the stage) to 2 or more: BatchNorm cannot learn from one value"
        )
    smallest = _smallest_px(trial)
    if smallest is not None:
        setting = "network.image_px" if trial.spec.jigsaw is None else "rating.jigsaw.tile_px"
        ways.append(f"raise {setting} to {smallest}, the smallest that works")
    ways.append("take another network.backbone")
    text = ", or ".join(ways)
    return text[0].upper() + text[1:]


def _smallest_px(trial: _Trial) -> int | None:
    """The smallest larger side that works, by bisection: what works at a side works at larger ones."""
    jigsaw = trial.spec.jigsaw
    low, high = trial.side_px, LARGEST_PX if jigsaw is None else jigsaw.image_px // 3
    if high <= low or replace(trial, side_px=high).said("meta"):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if replace(trial, side_px=middle).said("meta"):
            low = middle
        else:
            high = middle
    return high


def _in_training(module: nn.Module, spec: NetworkSpec) -> nn.Module:
    """As it learns: frozen parts do not."""
    module.train()
    for piece in spec.frozen:
        module.get_submodule(piece.part).eval()
    return module


def _check_privately(spec: NetworkSpec, settings: Settings) -> None:
    """Whether the network's gradients can be had patient by patient, and whether it keeps nothing of what it saw."""
    from common.privacy.mechanism import network_training  # noqa: PLC0415  a private network's alone

    network_training.check_network(local_settings(spec, settings))
