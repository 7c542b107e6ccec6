"""Steps per second of ``train_network`` beside plain PyTorch loops over the same pictures, as JSON.

    python benchmarks/local_training.py [STEPS] [REPEATS]
    python benchmarks/local_training.py 20 5 --device cuda --backbone resnet18 --image-px 224 --batch 64

Both loops keep a tensor a parameter, with their own AdamW and their own copies in and out; batches, augmentation and
precision are those of ``train_network``.

* ``plain``: what one writes first: pictures in main memory, indexed there, AdamW as it comes;
* ``strong``: what one writes in the end: all pictures on the device, ``index_select``, fused AdamW, weights and
  pictures in channels-last.

``ratio`` and ``ratio_to_strong`` are seconds of ``train_network`` over those of a loop, taken in turn in one process;
below 1 it is faster. ``cpu`` is the same of processor time, which feels other work on the machine less. ``workers``
are Python threads that train at once, each with ``threads`` threads of its own.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn
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

CASES = {"both": ("gs", "doppler"), "doppler": ("doppler",)}
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
    network = build.network(local.spec, local.network)
    load(network, weights)
    network.to(local.device)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=local.training.weight_decay)

    def gather(name: str, exams: torch.Tensor) -> torch.Tensor:
        return data.images[name][exams].to(local.device)

    return looped(network, optimiser, gather, data, local, seed) - weights


def strong(weights: torch.Tensor, data: ExamTensors, local: LocalSettings, seed: int) -> torch.Tensor:
    """``data`` lies on the device."""
    network = build.network(local.spec, local.network)
    load(network, weights)
    nn.utils.convert_conv2d_weight_memory_format(network.to(local.device), torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=local.training.weight_decay, fused=True)

    def gather(name: str, exams: torch.Tensor) -> torch.Tensor:
        return data.images[name].index_select(0, exams.to(local.device, non_blocking=True))

    return looped(network, optimiser, gather, data, local, seed) - weights


def looped(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    gather: Callable[[str, torch.Tensor], torch.Tensor],
    data: ExamTensors,
    local: LocalSettings,
    seed: int,
) -> torch.Tensor:
    """The weights after a round's steps; the pictures of a batch are channels-last, as ``picture`` makes them."""
    network.train()
    training, px = local.training, local.network.image_px
    assert training.augmentation is not None
    chosen = training_exams(data, local.spec).cpu()
    targets = labels(data, local.spec).cpu()[chosen]
    on_device = targets.to(local.device)
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
            pixels = gather(name, chosen[batch])
            pictures.append(picture(pixels, IMAGES[name], image_px=px, parameters=drawn))
        optimiser.param_groups[0]["lr"] = learning_rate(training, step=step, total=training.local_steps)
        optimiser.zero_grad()
        with autocast(local.device):  # the same precision on all sides
            loss = F.cross_entropy(network(pictures), on_device[batch.to(local.device, non_blocking=True)])
        loss.backward()
        optimiser.step()
    return flatten(network)


def on(data: ExamTensors, device: torch.device) -> ExamTensors:
    """The same exams with their pictures on a device."""
    return replace(data, images={name: pixels.to(device) for name, pixels in data.images.items()})


def seconds(
    job: Callable[[int], torch.Tensor], workers: int, pool: ThreadPoolExecutor
) -> tuple[float, float]:
    """Wall and processor time of one job a worker."""
    start, cpu = time.perf_counter(), time.process_time()
    list(pool.map(job, range(workers)))
    return time.perf_counter() - start, time.process_time() - cpu


def measure(
    images: tuple[str, ...], *, width: int, workers: int, threads: int, given: argparse.Namespace
) -> dict[str, object]:
    torch.set_num_threads(threads)
    steps, repeats = given.steps, given.repeats
    data, local = exams(300, given.image_px), settings(images, width, steps, given)
    there = on(data, local.device)
    weights = build.initial_weights(local.spec, local.network, seed=0)
    ways: dict[str, Callable[[int], torch.Tensor]] = {
        "ours": lambda seed: train_network(weights, {}, data, local, 1, seed)[0].update,
        "plain": lambda seed: plain(weights, data, local, seed),
        "strong": lambda seed: strong(weights, there, local, seed),
    }
    # OpenMP's thread count is that of the thread which asks, so each worker is told
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        ours = ways["ours"](0)
        differences = {name: (ours - ways[name](0)).abs().max().item() for name in ("plain", "strong")}
        turns = [
            {name: seconds(way, workers, pool) for name, way in ways.items()}
            for _ in range(1 + repeats)  # the first warms up
        ]

    def ratio(clock: int, other: str) -> float:
        return round(statistics.median(turn["ours"][clock] / turn[other][clock] for turn in turns[1:]), 3)

    def fastest(name: str) -> float:
        return min(turn[name][0] for turn in turns[1:])

    return {
        "images": list(images),
        "width": width,
        "workers": workers,
        "threads": threads,
        "steps_per_s": round(workers * steps / fastest("ours"), 1),
        "images_per_s": round(workers * steps * given.batch / fastest("ours")),
        "plain_steps_per_s": round(workers * steps / fastest("plain"), 1),
        "strong_steps_per_s": round(workers * steps / fastest("strong"), 1),
        "ratio": ratio(0, "plain"),
        "ratio_to_strong": ratio(0, "strong"),
        "cpu": {"ratio": ratio(1, "plain"), "ratio_to_strong": ratio(1, "strong")},
        "largest_difference": differences,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="?", type=int, default=20)
    parser.add_argument("repeats", nargs="?", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--image-px", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", choices=("both", "doppler"), help="one case alone")
    given = parser.parse_args()
    on_cpu = given.device == "cpu"
    cases = [
        measure(images, width=width, workers=workers, threads=threads, given=given)
        for images in ([CASES[given.images]] if given.images else CASES.values())
        for width in ((8, 16) if given.backbone == "small" else (8,))
        for workers, threads in (((2, 1), (1, 2)) if on_cpu else ((1, 1),))
    ]
    facts = {name: getattr(given, name) for name in ("device", "backbone", "image_px", "batch")}
    print(json.dumps({**facts, "cases": cases}, indent=2))


if __name__ == "__main__":
    main()
