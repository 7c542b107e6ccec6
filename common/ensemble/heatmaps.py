"""What in its pictures speaks for disease, as networks see it: integrated gradients, averaged, as a yellow overlay.

RATING (Zhou et al. 2022, "Heatmaps"): integrated gradients (Sundararajan et al. 2017, eq. 3; captum's) in 50 steps
from a zero baseline, averaged over 8 noisy copies of the pictures (SmoothGrad, Smilkov et al. 2017) and over the
networks for hypertrophy > 0; values below 0.2 dropped; the rest is the alpha of a yellow overlay. What the paper
leaves open is decided here:

* **Units.** Baseline and noise are in the networks' input (:mod:`common.imaging.prepare`): grey levels as 0 .. 1,
  less ImageNet's mean, over its standard deviation. Zero is therefore a mid-grey (about 116 of 255), not black, so
  that a dark synovium can count; noise of sigma 1 has the spread of about 57 of 255 grey levels.
* **What is explained.** Of a network that gives a number, that number; of others the log odds of class 1, which is
  the difference of the two logits. Class 1's logit alone means nothing: whatever is added to both logits changes it
  and leaves the prediction as it is.
* **Sign.** Attributions are added up over the channels and averaged with their sign over copies and networks; then
  only what speaks *for* the class is kept.
* **Scale.** Each heatmap is divided by the value above which the strongest pixels hold 2 % of its mass (which go to
  1), as captum's own pictures are, so that one outlier does not darken the rest; then comes the cut. Each image has
  its own scale: the heatmaps don't say which of the images counted more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from pydantic import Field
from torch import Tensor, nn

from common.ensemble import grad_cam
from common.errors import ConfigurationError, DataError
from common.networks.spec import NetworkSpec
from common.sections.section import Fraction, Positive, Section

YELLOW = (255, 255, 0)

Progress = Callable[[int, int], None]


class HeatmapSettings(Section):
    """How heatmaps are made; the defaults are RATING's."""

    method: Literal["integrated_gradients", "grad_cam"] = "integrated_gradients"
    """``grad_cam``: of the last convolutions (:mod:`common.ensemble.grad_cam`), in one pass and without noise."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Points of the integral between baseline and picture (Gauss-Legendre)."""
    noisy_copies: Positive = 8
    noise_sigma: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Standard deviation of the copies' Gaussian noise, in units of the networks' input; 0: no noise."""
    cut: Fraction = 0.2
    """Values below are dropped."""
    outliers: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the mass that the strongest pixels, which are set to 1, may hold."""
    batch: Positive = 64
    """Speed only: passes of a network at once. Two ResNet-18 at 224 px need about 50 MB for each."""

    @property
    def copies(self) -> int:
        """Copies that differ: one without noise."""
        return self.noisy_copies if self.sigma > 0 else 1

    @property
    def sigma(self) -> float:
        """Of the noise, as the method has it."""
        return self.noise_sigma if self.method == "integrated_gradients" else 0.0

    @property
    def points(self) -> int:
        """Passes of a network for each copy."""
        return self.steps if self.method == "integrated_gradients" else 1

    @property
    def described(self) -> str:
        """The method, for those who look at a heatmap."""
        if self.method == "grad_cam":
            return f"Grad-CAM of the last convolutions, cut at {self.cut:g}"
        return (
            f"Integrated gradients: {self.steps} steps, {self.copies} copies with noise of sigma "
            f"{self.noise_sigma:g}, cut at {self.cut:g}"
        )


def networks_above_zero(specs: Sequence[NetworkSpec], *, measurements: Sequence[str]) -> list[NetworkSpec]:
    """The networks that are explained: those that answer whether a grade is above 0, else those that give a number.

    RATING: the 10 fusion networks for hypertrophy > 0; Bo et al.: the regressions of the total score.

    Args:
        specs: of a trained ensemble.
        measurements: in the settings' order; the first that has such networks is taken.

    Returns:
        Networks of one measurement that all read the same images: as many as there are, since a network that reads
        fewer is a step on the way to them.

    Raises:
        ConfigurationError: if there are none.
    """
    binary = [spec for spec in specs if spec.target.kind == "binary" and spec.target.threshold == 0]
    binary = binary or [spec for spec in specs if spec.target.kind == "regression"]
    if binary and all(spec.clips for spec in binary):
        raise ConfigurationError(
            "Expected networks that read stills, those that answer whether a grade is above 0 read clips: there are "
            "no heatmaps of moving pictures"
        )
    binary = [spec for spec in binary if not spec.clips]
    if not binary:
        raise ConfigurationError(
            "Expected networks that answer whether a grade is above 0, or give a number, the run has none: its "
            "method gives no heatmaps"
        )
    order = [*measurements, *(spec.target.measurement for spec in binary)]
    name = min((spec.target.measurement for spec in binary), key=order.index)
    chosen = [spec for spec in binary if spec.target.measurement == name]
    images = max((spec.images for spec in chosen), key=len)
    return [spec for spec in chosen if spec.images == images]


def heatmaps(
    modules: Sequence[nn.Module],
    pictures: Sequence[Float[Tensor, "n 3 h w"]],
    *,
    settings: HeatmapSettings,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> list[Float32[Tensor, "n h w"]]:
    """Heatmaps of some exams, one for each image that the networks read.

    An exam's heatmaps don't depend on which exams are beside it: all get the same noise.

    Args:
        modules: networks in eval mode, made outside of ``inference_mode``, each from the sequence of pictures to
            logits ``(n, 2)``.
        pictures: the images in the networks' order, as :func:`common.imaging.prepare.picture` makes them, on the
            networks' device.
        settings: steps, copies, cut.
        generator: of the noise.
        progress: told of pairs of exam and network done, out of all.

    Returns:
        For each image, values 0 or ``settings.cut`` .. 1, on the CPU.

    Raises:
        DataError: if a network gives attributions that are not finite.
    """
    found = attributions(modules, pictures, settings=settings, generator=generator, progress=progress)
    return [scaled(values, settings) for values in found]


def attributions(
    modules: Sequence[nn.Module],
    pictures: Sequence[Float[Tensor, "n 3 h w"]],
    *,
    settings: HeatmapSettings,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> list[Float32[Tensor, "n h w"]]:
    """Integrated gradients of the log odds, channels added up, averaged over copies and networks.

    Without noise the values of an exam, over all its images, add up to the mean over the networks of its log odds
    less those of the baseline (completeness), but for the error of the integral. That error is large for the small
    backbone: its group norms undo the scale of a picture, which is all that changes on the way from zero, so the log
    odds jump close to zero and 50 steps catch a part of the jump; which pixels count more than others is hardly
    touched by it.

    Args, Raises: see :func:`heatmaps`.
    """
    exams = len(pictures[0])
    with torch.inference_mode(False), torch.enable_grad():  # wherever the caller is
        noise = [_noise(values, settings, generator) for values in pictures]
        sums = [torch.zeros(exams, *values.shape[2:]) for values in pictures]
        for exam in range(exams):
            copies = [values[exam] + added for values, added in zip(pictures, noise, strict=True)]
            for number, module in enumerate(modules, start=1):
                for total, found in zip(sums, _attributed(module, copies, settings), strict=True):
                    total[exam] += found / len(modules)
                if progress is not None:
                    progress(exam * len(modules) + number, exams * len(modules))
    if not all(total.isfinite().all() for total in sums):
        raise DataError(
            "Expected finite attributions, got NaN or infinity: a network's weights or pictures are not finite"
        )
    return sums


def _noise(
    pictures: Float[Tensor, "n 3 h w"], settings: HeatmapSettings, generator: torch.Generator
) -> Float[Tensor, "copies 3 h w"]:
    """Captum's NoiseTunnel would take it from the global generator."""
    shape = (settings.copies, *pictures.shape[1:])
    drawn = torch.randn(shape, generator=generator, device=generator.device)
    return settings.sigma * drawn.to(pictures.device)


def _attributed(
    module: nn.Module, copies: Sequence[Float[Tensor, "copies 3 h w"]], settings: HeatmapSettings
) -> list[Float32[Tensor, "h w"]]:
    if settings.method == "grad_cam":
        return grad_cam.attributed(module, copies, told=_log_odds(module))
    return _integrated_gradients(module, copies, settings)


def _integrated_gradients(
    module: nn.Module, copies: Sequence[Float[Tensor, "copies 3 h w"]], settings: HeatmapSettings
) -> list[Float32[Tensor, "h w"]]:
    """Of one exam by one network: mean over the copies, sum over the channels."""
    from captum.attr import IntegratedGradients  # noqa: PLC0415  (it loads matplotlib; few runs need it)

    method = IntegratedGradients(_log_odds(module))
    sums: list[Tensor] = [torch.zeros(values.shape[2:]) for values in copies]
    for part in zip(*(values.split(settings.batch) for values in copies), strict=True):
        found = method.attribute(part, n_steps=settings.steps, internal_batch_size=settings.batch)
        sums = [total + values.detach().sum((0, 1)).cpu() for total, values in zip(sums, found, strict=True)]
    return [total / settings.copies for total in sums]


def _log_odds(module: nn.Module) -> Callable[..., Float[Tensor, " n"]]:
    def forward(*pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        logits: Float[Tensor, "n outputs"] = module(pictures)
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]

    return forward


def scaled(values: Float[Tensor, "n h w"], settings: HeatmapSettings) -> Float32[Tensor, "n h w"]:
    """Attributions as heatmaps: the positive part, each brought to 0 .. 1 by itself, cut.

    Args:
        values: signed attributions.
        settings: ``outliers`` and ``cut``.

    Returns:
        All zero for an exam in which nothing speaks for the class.
    """
    positive = values.clamp(min=0).double()  # whose running sums reach the last one's share exactly
    ordered = positive.flatten(1).sort(dim=1).values
    mass = ordered.cumsum(dim=1)
    below = (mass < (1 - settings.outliers) * mass[:, -1:]).sum(dim=1, keepdim=True)
    top = ordered.gather(1, below.clamp(max=ordered.shape[1] - 1)).view(-1, 1, 1)
    relative = (positive / torch.where(top > 0, top, 1.0)).clamp(max=1.0)
    return torch.where(relative < settings.cut, 0.0, relative).float()


def overlay(
    picture: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"], heatmap: Float[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture under a yellow layer whose alpha is the heatmap.

    Args:
        picture: grey or RGB.
        heatmap: 0 .. 1, of the picture's size.

    Raises:
        DataError: if the sizes differ.
    """
    if picture.shape[:2] != heatmap.shape:
        raise DataError(f"Expected a heatmap of {picture.shape[:2]} pixels, got {heatmap.shape}")
    colours = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    alpha = heatmap[..., None]
    return np.asarray((colours * (1 - alpha) + np.array(YELLOW) * alpha).round(), dtype=np.uint8)
