"""A factory of small exams as tensors, whose grades can be read from the pictures."""

from __future__ import annotations

import torch

from common.imaging.roi import stored_px
from common.networks.spec import NetworkSpec, Target
from common.sections.networks import ImageSettings, NetworkSettings
from common.sections.training import TrainingSettings
from common.training.data import ExamTensors
from common.training.local_settings import LocalSettings

IMAGES = {"gs": ImageSettings(kind="grey"), "doppler": ImageSettings(kind="doppler")}
NETWORK = NetworkSettings(backbone="small", image_px=32, width=4, hidden=16)
FUSION = NetworkSpec(
    name="rating/fold0/hypertrophy/gt0/a",
    images=("gs", "doppler"),
    target=Target(measurement="hypertrophy"),
    fold=0,
)
SINGLE = NetworkSpec(
    name="rating/fold0/vascularity/gt0/a",
    images=("doppler",),
    target=Target(measurement="vascularity"),
    fold=0,
)


def make_exams(count: int = 48, *, image_px: int = 32, seed: int = 0) -> ExamTensors:
    """Noise with a bright block whose height grows with the grade; folds 0-2, some exams held out."""
    generator = torch.Generator().manual_seed(seed)
    side = stored_px(image_px)
    grades = torch.randint(0, 4, (count,), generator=generator)
    rows = torch.arange(side).view(1, 1, side, 1)
    block = (rows < grades.view(-1, 1, 1, 1) * side // 4).expand(count, 1, side, side)
    noise = torch.randint(0, 100, (count, 1, side, side), generator=generator)
    grey = (noise + 120 * block).to(torch.uint8)
    flow = (255 * block).to(torch.uint8)
    return ExamTensors(
        images={"gs": grey, "doppler": torch.cat([grey, flow], dim=1)},
        grades={"hypertrophy": grades.to(torch.int8), "vascularity": grades.to(torch.int8)},
        fold=(torch.arange(count) % 4 - 1).to(torch.int8),
        patient=torch.arange(count, dtype=torch.int32) // 2,
    )


def local_settings(spec: NetworkSpec = FUSION, **training: object) -> LocalSettings:
    """Settings of a short local training; keyword arguments replace fields of the training section."""
    defaults = {"batch_size": 8, "local_steps": 3, "learning_rate": 3e-3}
    return LocalSettings(
        spec=spec,
        images=IMAGES,
        network=NETWORK,
        training=TrainingSettings.model_validate(defaults | training),
        rounds=4,
    )
