"""What a single gradient shows of a picture, and what noise leaves of that, as JSON; ``--figure FILE`` draws it.

    python benchmarks/gradient_inversion.py [--px 64] [--iterations 1000] [--figure FILE.png]

The attacker is whoever receives an update and knows the weights and the grade. From the gradient of one phantom
picture (the sharpest case: a patient with one image, everybody else's part known) it looks for the picture whose
gradient points the same way, smooth where the gradient does not say (Geiping et al. 2020, arXiv 2003.14053: cosine
distance, total variation, Adam). With several weights of smoothness the picture is taken that comes nearest to the
original, which is more than an attacker could know.

* ``whole network``: all weights of the small backbone train, and their gradient leaves.
* ``whole network, epsilon 8 or 3``: it leaves as the private step releases it: clipped, noised, on the grid. The
  noise is that of 60 rounds of the whole cohort, delta 1e-5; the attacker sees one round.
* ``head alone``: the backbone is frozen and public, and only the head's gradient leaves. It gives away the features
  exactly, and the picture as far as these determine it.
* ``head alone, epsilon 8 or 3``: the same, released by the private step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.imaging.prepare import MEAN, STD
from common.networks.backbones import initialise
from common.networks.fusion import ImageNetwork
from common.privacy.accounting.accounting import noise_multiplier
from common.privacy.mechanism import gaussian_release
from common.privacy.mechanism.noise import KeyStream
from common.sections.networks import NetworkSettings
from simulation.phantom.devices import FITTED
from simulation.phantom.patients import make_patient

CLASSES, GRADE, NORM, ROUNDS, DELTA = 4, 2, 1.0, 60, 1e-5
EPSILONS = (8.0, 3.0)
Gradient = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an attack found in a gradient."""

    name: str
    numbers: int
    noise_to_signal: float
    picture: np.ndarray
    cosine: float
    smoothness: float


def phantom(px: int) -> np.ndarray:
    """Grey levels 0..1 of a phantom scan, ``(px, px)``."""
    scan = make_patient(1, "site-a", 0, FITTED[0], exams=1).exams.grey[0]
    side = min(scan.shape[:2])
    top, left = (scan.shape[0] - side) // 2, (scan.shape[1] - side) // 2
    cut = Image.fromarray(scan[top : top + side, left : left + side]).convert("L")
    return np.asarray(cut.resize((px, px), Image.Resampling.BOX), dtype=np.float64) / 255


def network(*, width: int, px: int) -> ImageNetwork:
    built = ImageNetwork(NetworkSettings(backbone="small", width=width, image_px=px), classes=CLASSES)
    initialise(built, torch.Generator().manual_seed(0))
    return built.eval()


def gradient_of(built: ImageNetwork, *, head_alone: bool) -> Gradient:
    """The gradient, flat and differentiable, that a picture ``(1, 1, px, px)`` makes in what trains."""
    names = [n for n, _ in built.named_parameters() if n.startswith("head") or not head_alone]
    trained: dict[str, Tensor] = {name: dict(built.named_parameters())[name] for name in names}
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    grade = torch.tensor([GRADE])

    def gradient(grey: Tensor) -> Tensor:
        answer = functional_call(built, trained, ([(grey - mean) / std],))
        loss = F.cross_entropy(answer, grade)
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(trained.values()), create_graph=True)]
        )

    return gradient


def released(gradient: Tensor, epsilon: float) -> tuple[Tensor, float]:
    """One patient's gradient, clipped and noised as the private step does it, and the noise over the signal."""
    sigma = noise_multiplier(epsilon, sample_rate=1, count=ROUNDS, delta=DELTA)
    clipped = gradient.double() * min(1.0, gaussian_release.clipping_norm(NORM) / float(gradient.norm()))
    noised = gaussian_release.release(
        clipped.numpy(),
        max_grad_norm=NORM,
        noise_multiplier=sigma,
        stream=KeyStream(os.urandom(32), "noise"),
    )
    noise = float(np.linalg.norm(noised - clipped.numpy()))
    return torch.from_numpy(noised).float(), noise / float(clipped.norm())


def invert(
    gradient: Gradient, seen: Tensor, *, px: int, iterations: int, smoothness: float
) -> tuple[np.ndarray, float]:
    """The picture whose gradient fits, from a start of noise, and the cosine of the two gradients."""
    grey = 0.2 + 0.2 * torch.rand(1, 1, px, px, generator=torch.Generator().manual_seed(0))
    grey.requires_grad_()
    optimiser = torch.optim.Adam([grey], lr=0.03)
    steps = [round(iterations * share) for share in (3 / 8, 5 / 8, 7 / 8)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, steps, gamma=0.3)
    cosine = torch.zeros(())
    for _ in range(iterations):
        cosine = F.cosine_similarity(gradient(grey), seen, dim=0)
        optimiser.zero_grad()
        (1 - cosine + smoothness * total_variation(grey)).backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            grey.clamp_(0, 1)
    return grey.detach()[0, 0].double().numpy(), float(cosine.detach())


def total_variation(grey: Tensor) -> Tensor:
    return grey.diff(dim=2).abs().mean() + grey.diff(dim=3).abs().mean()


def likeness(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Peak signal over noise (dB), structural similarity (Wang et al. 2004, sigma 1.5), correlation."""
    square = float(np.mean((one - other) ** 2))

    def blur(values: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = gaussian_filter(values, 1.5)
        return blurred

    mean_one, mean_other = blur(one), blur(other)
    var_one, var_other = blur(one**2) - mean_one**2, blur(other**2) - mean_other**2
    both = blur(one * other) - mean_one * mean_other
    ssim = (2 * mean_one * mean_other + 1e-4) * (2 * both + 9e-4)
    ssim /= (mean_one**2 + mean_other**2 + 1e-4) * (var_one + var_other + 9e-4)
    return {
        "psnr_db": round(10 * math.log10(1 / max(square, 1e-12)), 2),
        "ssim": round(float(ssim.mean()), 3),
        "correlation": round(float(np.corrcoef(one.ravel(), other.ravel())[0, 1]), 3),
    }


def attacks(original: np.ndarray, *, width: int, iterations: int, smoothness: Sequence[float]) -> list[Found]:
    px = len(original)
    built = network(width=width, px=px)
    picture = torch.from_numpy(original).float()[None, None]
    found = []
    for what, head_alone in (("whole network", False), ("head alone", True)):
        gradient = gradient_of(built, head_alone=head_alone)
        true = gradient(picture).detach()
        seen: Mapping[str, tuple[Tensor, float]] = {what: (true, 0.0)} | {
            f"{what}, epsilon {epsilon:g}": released(true, epsilon) for epsilon in EPSILONS
        }
        for name, (values, noise) in seen.items():
            tried = [
                Found(
                    name=name,
                    numbers=len(values),
                    noise_to_signal=noise,
                    picture=guess,
                    cosine=cosine,
                    smoothness=weight,
                )
                for weight in smoothness
                for guess, cosine in [
                    invert(gradient, values, px=px, iterations=iterations, smoothness=weight)
                ]
            ]
            found.append(max(tried, key=lambda one: likeness(original, one.picture)["correlation"]))
            print(name, likeness(original, found[-1].picture), file=sys.stderr, flush=True)
    return found


def draw(original: np.ndarray, found: Sequence[Found], path: Path) -> None:
    """The original, and beside it what each attack found."""
    from matplotlib import pyplot as plt  # noqa: PLC0415  (seconds)

    columns = 1 + len(found) // 2
    figure, axes = plt.subplots(2, columns, figsize=(2.2 * columns, 5.6), layout="constrained")
    for row, some in zip(axes, (found[: columns - 1], found[columns - 1 :]), strict=True):
        row[0].set_title("original\n", fontsize=9)
        for axis, one in zip(row[1:], some, strict=True):
            like = likeness(original, one.picture)
            axis.set_title(f"{one.name}\n{like['psnr_db']:.1f} dB, r = {like['correlation']:.2f}", fontsize=9)
        for axis, values in zip(row, (original, *(one.picture for one in some)), strict=True):
            axis.imshow(values, cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--width", type=int, default=16, help="of the small backbone")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--smoothness", type=float, nargs="+", default=[0.15])
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    original = phantom(arguments.px)
    start = time.process_time()
    found = attacks(
        original,
        width=arguments.width,
        iterations=arguments.iterations,
        smoothness=arguments.smoothness,
    )
    spent = time.process_time() - start
    flat = np.full_like(original, original.mean())
    if arguments.figure is not None:
        draw(original, found, arguments.figure)
    measured = [
        {
            "gradient": one.name,
            "numbers": one.numbers,
            "noise_over_signal": round(one.noise_to_signal, 1),
            "smoothness": one.smoothness,
            "cosine": round(one.cosine, 4),
            **likeness(original, one.picture),
        }
        for one in found
    ]
    sizes = {key: getattr(arguments, key) for key in ("px", "width", "iterations", "smoothness")}
    blank = likeness(original, flat + 1e-9 * original)
    del blank["correlation"]
    shown = {**sizes, "processor_s": round(spent), "mean_grey_everywhere": blank, "measured": measured}
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
