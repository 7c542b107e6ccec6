"""Random changes to a batch of stored images, drawn apart from being applied, and the cut of the ROI.

A stored image has a margin around its ROI (``imaging.roi``): the ROI is cut from it shifted, scaled and
rotated in one bilinear resampling of the whole batch, on whatever device the batch lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from common.sections.networks import ImageSettings
from common.sections.training import AugmentationSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentParameters:
    """What happens to each image of a batch.

    Attributes:
        theta: from the cut's coordinates to the stored image's, both -1 .. 1.
        brightness: factor of every value.
        contrast: factor of the distance to the image's mean, of a clip to that of all its frames.
    """

    theta: Float[Tensor, "n 2 3"]
    brightness: Float[Tensor, " n"]
    contrast: Float[Tensor, " n"]

    @property
    def packed(self) -> Float[Tensor, "n 8"]:
        """All of it in one tensor, as it travels to a device."""
        return torch.cat([self.theta.flatten(1), self.brightness[:, None], self.contrast[:, None]], dim=1)

    @classmethod
    def unpacked(cls, values: Float[Tensor, "n 8"]) -> AugmentParameters:
        """Views into what :attr:`packed` gave."""
        return cls(theta=values[:, :6].unflatten(1, (2, 3)), brightness=values[:, 6], contrast=values[:, 7])

    def repeated(self, frames: int) -> AugmentParameters:
        """The same changes for each of an image's frames, which follow one another."""
        if frames == 1:
            return self
        return AugmentParameters(
            theta=self.theta.repeat_interleave(frames, dim=0),
            brightness=self.brightness.repeat_interleave(frames),
            contrast=self.contrast.repeat_interleave(frames),
        )


def draw(
    n: int,
    *,
    image: ImageSettings,
    settings: AugmentationSettings,
    image_px: int,
    stored_px: int,
    generator: torch.Generator,
) -> AugmentParameters:
    """Draw the changes of ``n`` images (ranges: RATING, supplemental methods)."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    angle = uniform(-settings.rotation_degrees, settings.rotation_degrees) * (math.pi / 180)
    doppler = image.kind == "doppler"
    scale = uniform(*(settings.doppler_scale if doppler else settings.grey_scale))
    shift = 0.0 if doppler else settings.grey_shift
    ratio = image_px / stored_px
    cos, sin = torch.cos(angle) * scale * ratio, torch.sin(angle) * scale * ratio
    right, down = (2 * ratio * uniform(-shift, shift) for _ in range(2))
    theta = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(n, 2, 3)
    return AugmentParameters(
        theta=theta,
        brightness=uniform(1 - settings.brightness, 1 + settings.brightness),
        contrast=uniform(1 - settings.contrast, 1 + settings.contrast),
    )


def cut(
    stored: Float[Tensor, "n c side side"], parameters: AugmentParameters, *, image_px: int
) -> Float[Tensor, "n c px px"]:
    """Cut the changed ROIs; pixels beyond the margin repeat its edge."""
    grid = _grid(parameters.theta.to(stored.device), image_px)
    return F.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _grid(theta: Float[Tensor, "n 2 3"], px: int) -> Float[Tensor, "n px px 2"]:
    """``F.affine_grid`` without its batched matrix product, which costs more than the sampling itself."""
    centres = _centres(px, theta.device)
    along_x = theta[:, :, 0, None, None] * centres
    along_y = theta[:, :, 1, None, None] * centres[:, None] + theta[:, :, 2, None, None]
    return (along_x + along_y).permute(0, 2, 3, 1)


@lru_cache(maxsize=16)
def _centres(px: int, device: torch.device) -> Float[Tensor, " px"]:
    """Where the middles of pixels lie, -1 .. 1."""
    with torch.inference_mode(False):  # scoring may ask first; training multiplies by them later
        return (torch.arange(px, device=device, dtype=torch.float32) * 2 + 1) / px - 1


def relight(
    pictures: Float[Tensor, "n *frames c px px"], parameters: AugmentParameters
) -> Float[Tensor, "n *frames c px px"]:
    """Change brightness, then contrast; values stay in 0 .. 1."""
    each = (-1, *[1] * (pictures.ndim - 1))
    brightness = parameters.brightness.to(pictures.device).view(each)
    contrast = parameters.contrast.to(pictures.device).view(each)
    bright = pictures * brightness
    mean = bright.mean(tuple(range(1, pictures.ndim)), keepdim=True)
    return torch.lerp(mean, bright, contrast).clamp_(0.0, 1.0)


def central_cut(stored: Shaped[Tensor, "n c side side"], *, image_px: int) -> Shaped[Tensor, "n c px px"]:
    """The unchanged ROI: a view of the middle, no resampling."""
    margin = (stored.shape[-1] - image_px) // 2
    return stored[..., margin : margin + image_px, margin : margin + image_px]
