"""From stored bytes to what a network reads: cut, relit, painted, three channels, normalised.

All frames of a clip are changed alike: one rotation, shift and scale, and one curve of brightness and contrast.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from common.imaging.augment import AugmentParameters, central_cut, cut, relight
from common.sections.networks import ImageSettings

FLOW_COLOUR = (1.0, 0.0, 0.0)
"""Every pixel of the Doppler signal gets this colour, so all machines' colour maps look alike (RATING)."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's statistics, public constants, so that its weights fit."""

_CONSTANTS = (
    [1 / std for std in STD],
    [-mean / std for mean, std in zip(MEAN, STD, strict=True)],
    [(colour - mean) / std for colour, mean, std in zip(FLOW_COLOUR, MEAN, STD, strict=True)],
)


def picture(
    stored: UInt8[Tensor, "n *frames c side side"],
    image: ImageSettings,
    *,
    image_px: int,
    parameters: AugmentParameters | None = None,
) -> Float[Tensor, "n *frames 3 px px"]:
    """Pictures of one kind, ready for a network.

    Args:
        stored: as in ``ExamTensors.images``.
        image: its kind.
        image_px: side of the picture.
        parameters: random changes, one for each exam, or ``None`` for the ROI as it is.

    Returns:
        Normalised pictures, each of them in channels-last memory.
    """
    exams, frames = stored.shape[:-3], stored.flatten(0, -4)
    if parameters is None:
        grey, mask = _split(central_cut(frames, image_px=image_px).float() / 255, image)
    else:
        changes = parameters.repeated(len(frames) // max(len(stored), 1))
        grey, mask = _split(cut(frames.float() / 255, changes, image_px=image_px), image)
        # before painting: the flow's colour stays what it is
        grey = relight(grey.unflatten(0, exams), parameters).flatten(0, -4)
    scale, offset, flow = _constants(stored.device)
    if mask is not None:
        grey = grey * (1 - mask)
        offset = torch.addcmul(offset, mask.permute(0, 2, 3, 1), flow - offset)
    rgb = torch.addcmul(offset, grey.permute(0, 2, 3, 1), scale).permute(0, 3, 1, 2)
    # grey, once broadcast, is channels-last already
    ready: Tensor = rgb.contiguous(memory_format=torch.channels_last).unflatten(0, exams)
    return ready


@lru_cache
def _constants(device: torch.device) -> Float[Tensor, "3 3"]:
    with torch.inference_mode(False):  # scoring may ask first; training multiplies by them later
        return torch.tensor(_CONSTANTS, device=device)


def _split(values: Tensor, image: ImageSettings) -> tuple[Tensor, Tensor | None]:
    """Luminance or colour, and for Doppler the mask of the flow signal."""
    return (values[:, :1], values[:, 1:]) if image.kind == "doppler" else (values, None)
