"""Steps per second of ``train_network`` beside a plain PyTorch loop over the same pictures, as JSON.

    python benchmarks/local_training.py [STEPS] [REPEATS]
    python benchmarks/local_training.py 20 5 --device cuda --backbone resnet18 --image-px 224 --batch 64

The plain loop keeps a tensor a parameter: its own AdamW, its own copies in and out. ``ratio`` is the seconds
of ``train_network`` over those of the plain loop, taken in turn in one process; below 1 it is faster.
``workers`` are Python threads that train at once, each with ``threads`` threads of its own.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.imaging import augment
from common.imaging.prepare import picture
from common.imaging.roi import stored_px
from common.networks import build
from common.networks.layout import flatten, load
from common.networks.spec import NetworkSpec, Target
from common.sections.networks import ImageSettings, NetworkSettings
from common.sections.training import AugmentationSettings, TrainingSettings
from common.training.data import ExamTensors
from common.training.inputs import labels, training_exams
from common.training.local import autocast, train_network
from common.training.local_settings import LocalSettings
from common.training.sampling import batches
from common.training.schedule import learning_rate

IMAGES = {"gs": ImageSettings(kind="grey"), "doppler": ImageSettings(kind="doppler")}


def exams(count: int, px: int) -> ExamTensors:
    generator = torch.Generator().manual_seed(0)
    side = stored_px(px)

    def pixels(channels: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)

    return ExamTensors(
        images={"gs": pixels(1), "doppler": pixels(2)},
        grades={"grade": torch.randint(0, 4, (count,), generator=generator, dtype=torch.int8)},
        fold=torch.randint(0, 5, (count,), generator=generator, dtype=torch.int8),
        patient=torch.arange(count, dtype=torch.int32),
    )


def settings(images: tuple[str, ...], width: int, steps: int, given: argparse.Namespace) -> LocalSettings:
    spec = NetworkSpec(name="bench", images=images, target=Target(measurement="grade"), fold=0)
    training = TrainingSettings(
        batch_size=given.batch, local_steps=steps, augmentation=AugmentationSettings()
    )
    network = NetworkSettings(backbone=given.backbone, image_px=given.image_px, width=width, hidden=64)
    device = torch.device(given.device)
    return LocalSettings(
        spec=spec, images=IMAGES, network=network, training=training, rounds=1, device=device
    )


def plain(weights: torch.Tensor, data: ExamTensors, local: LocalSettings, seed: int) -> torch.Tensor:
    network = build.network(local.spec, local.network).train()
    load(network, weights)
    network.to(local.device)
    training, px = local.training, local.network.image_px
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=training.weight_decay)
    chosen = training_exams(data, local.spec)
    targets = labels(data, local.spec)[chosen]
    generator = torch.Generator().manual_seed(seed)
    for step, batch in enumerate(islice(batches(targets, training, generator), training.local_steps)):
        pictures = []
        for name in local.spec.images:
            drawn = augment.draw(
                len(batch),
                image=IMAGES[name],
                settings=training.augmentation,
                image_px=px,
                stored_px=stored_px(px),
                generator=generator,
            )
            pixels = data.images[name][chosen[batch]].to(local.device)
            pictures.append(picture(pixels, IMAGES[name], image_px=px, parameters=drawn))
        optimiser.param_groups[0]["lr"] = learning_rate(training, step=step, total=training.local_steps)
        optimiser.zero_grad()
        with autocast(local.device):  # the same precision on both sides
            loss = F.cross_entropy(network(pictures), targets[batch].to(local.device))
        loss.backward()
        optimiser.step()
    return flatten(network) - weights


def seconds(job: Callable[[int], torch.Tensor], workers: int, pool: ThreadPoolExecutor) -> float:
    start = time.perf_counter()
    list(pool.map(job, range(workers)))
    return time.perf_counter() - start


def measure(
    images: tuple[str, ...], *, width: int, workers: int, threads: int, given: argparse.Namespace
) -> dict[str, object]:
    torch.set_num_threads(threads)
    steps, repeats = given.steps, given.repeats
    data, local = exams(300, given.image_px), settings(images, width, steps, given)
    weights = build.initial_weights(local.spec, local.network, seed=0)
    # OpenMP's thread count is that of the thread which asks, so each worker is told
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:

        def ours(seed: int) -> torch.Tensor:
            return train_network(weights, {}, data, local, 1, seed)[0].update

        def theirs(seed: int) -> torch.Tensor:
            return plain(weights, data, local, seed)

        difference = (ours(0) - theirs(0)).abs().max().item()
        seconds(ours, workers, pool), seconds(theirs, workers, pool)  # warm
        pairs = [(seconds(ours, workers, pool), seconds(theirs, workers, pool)) for _ in range(repeats)]
    fastest = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    return {
        "images": list(images),
        "width": width,
        "workers": workers,
        "threads": threads,
        "steps_per_s": round(workers * steps / fastest[0], 1),
        "images_per_s": round(workers * steps * given.batch / fastest[0]),
        "plain_steps_per_s": round(workers * steps / fastest[1], 1),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="?", type=int, default=20)
    parser.add_argument("repeats", nargs="?", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--image-px", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    on_cpu = given.device == "cpu"
    cases = [
        measure(images, width=width, workers=workers, threads=threads, given=given)
        for images in (("gs", "doppler"), ("doppler",))
        for width in ((8, 16) if given.backbone == "small" else (8,))
        for workers, threads in (((2, 1), (1, 2)) if on_cpu else ((1, 1),))
    ]
    facts = {name: getattr(given, name) for name in ("device", "backbone", "image_px", "batch")}
    print(json.dumps({**facts, "cases": cases}, indent=2))


if __name__ == "__main__":
    main()
