"""Seconds to ask RATING's networks, stacked and one by one, in float32 and bfloat16, as JSON.

    python benchmarks/committee.py [--device cuda] [--backbones small resnet18] [--batches 1 128] ...

``plain`` is what a user would write: each network as it was built, one after the other. All ways are taken in
turn in one process; every figure under ``times_faster`` is a median of ratios of neighbours, above 1 where the
first is faster; ``shortest_milliseconds`` are nearest to those of an idle machine. ``chosen`` is what
``common.ensemble.inference`` does unless told otherwise.

The networks are random and so are the pictures: their answers lie closer together than those of trained
networks, and each threshold lies amidst them, so ``same_bits`` and what follows are what bfloat16 does at worst.
Without a GPU the default leaves out most of the 60 ResNet-18 networks; ``--models 5 --replicas 2`` has them all.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.ensemble.architecture import weights_of
from common.ensemble.inference import Ensemble, Member, Place, Precision, ensemble
from common.networks import build
from common.networks.spec import NetworkSpec, Target
from common.scoring import ecoc, eoss, multitude
from common.sections.networks import NetworkSettings

MEASUREMENTS = {"hypertrophy": ("gs", "doppler"), "vascularity": ("doppler",)}
THRESHOLDS = 3
SIZES = {
    "small": NetworkSettings(width=8, hidden=64),
    "resnet18": NetworkSettings(backbone="resnet18", image_px=224),
}
MODELS = {"small": (5, 2), "resnet18": (1, 1)}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
FEWEST = 16
"""Fewer exams do not tell how many grades change."""
GOALS = {("cpu", "small", 1): 2.0, ("cuda", "small", 1): 10.0, ("cuda", "resnet18", 1): 10.0}
Pictures = dict[str, torch.Tensor]
Ask = Callable[[], dict[str, torch.Tensor]]


def members(settings: NetworkSettings, models: int, replicas: int) -> list[Member]:
    """RATING's networks with random weights and statistics, model by model."""
    made = []
    tasks = product(range(models), MEASUREMENTS.items(), range(replicas), range(THRESHOLDS))
    for seed, (fold, (measurement, images), replica, threshold) in enumerate(tasks):
        target = Target(measurement=measurement, threshold=threshold)
        spec = NetworkSpec(name=f"{fold}/{measurement}/{replica}/{threshold}", images=images, target=target)
        network = build.network(spec, settings).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, values in weights_of(network):
            scale = (2 / values[0].numel()) ** 0.5 if values.ndim > 1 else 0.2
            values.data.normal_(0, scale, generator=generator)
            if values.ndim == 1 and not name.endswith(("bias", "running_mean")):
                values.data.abs_().add_(0.5)
        made.append(Member(name=spec.name, images=images, network=network))
    return made


def pictures(count: int, px: int, device: torch.device) -> Pictures:
    """Clouds of different brightness, which networks tell apart, unlike white noise."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for image in ("gs", "doppler"):
        coarse = torch.randn(count, 3, 8, 8, generator=generator) + torch.randn(
            count, 1, 1, 1, generator=generator
        )
        cloud = F.interpolate(coarse, (px, px), mode="bilinear")
        drawn[image] = cloud.to(device).contiguous(memory_format=torch.channels_last)
    return drawn


def plain(networks: Sequence[Member], read: Pictures, device: torch.device, precision: Precision) -> Ask:
    def ask() -> dict[str, torch.Tensor]:
        half = precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            return {m.name: m.network([read[image] for image in m.images]).float().cpu() for m in networks}

    return ask


def ways(
    plain_networks: Sequence[Member], single: Ensemble, half: Ensemble, read: Pictures, device: torch.device
) -> dict[str, Ask]:
    return {
        "plain": plain(plain_networks, read, device, "float32"),
        "loop": lambda: single.logits(read, way="loop"),
        "stacked": lambda: single.logits(read, way="stacked"),
        "chosen": lambda: single.logits(read),
        "plain_bfloat16": plain(plain_networks, read, device, "bfloat16"),
        "stacked_bfloat16": lambda: half.logits(read, way="stacked"),
        "chosen_bfloat16": lambda: half.logits(read),
    }


def ask_in_turn(
    asks: dict[str, Ask], *, repeats: int, limit_s: float
) -> tuple[dict[str, list[float]], dict[str, dict[str, torch.Tensor]]]:
    """Seconds of each way, and its answers."""
    answers = {}
    taken: dict[str, list[float]] = {name: [] for name in asks}
    start = time.perf_counter()
    while not taken["plain"] or (len(taken["plain"]) < repeats and time.perf_counter() - start < limit_s):
        for name, ask in asks.items():
            began = time.perf_counter()
            answers[name] = ask()  # ends with a copy to the CPU, so a GPU has finished too
            taken[name].append(time.perf_counter() - began)
    return taken, answers


def ratio(taken: dict[str, list[float]], first: str, over: str) -> float:
    return round(statistics.median(b / a for a, b in zip(taken[first], taken[over], strict=True)), 2)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


def agreement(
    exact: dict[str, torch.Tensor], rounded: dict[str, torch.Tensor], replicas: int
) -> dict[str, float]:
    """Shares of bits, of scoring models' votes and of decisions that bfloat16 leaves as they are."""
    odds = [
        np.stack([(x[:, 1] - x[:, 0]).numpy() for x in found.values()], axis=1) for found in (exact, rounded)
    ]
    quantiles = np.tile((np.arange(THRESHOLDS) + 1) / (THRESHOLDS + 1), odds[0].shape[1] // THRESHOLDS)
    thresholds = np.array([np.quantile(column, q) for column, q in zip(odds[0].T, quantiles, strict=True)])
    bits = [(found >= thresholds).reshape(len(found), -1, replicas, THRESHOLDS) for found in odds]
    votes = [
        np.stack([ecoc.decode(b[:, i]) for i in range(b.shape[1])], axis=1).reshape(
            len(b), -1, len(MEASUREMENTS)
        )
        for b in bits
    ]
    decided = [
        multitude.decide(v.astype(np.int8), values=(4, 4), is_valid=eoss.is_valid_pair).decision
        for v in votes
    ]
    same: dict[str, list[np.ndarray]] = {"same_bits": bits, "same_votes": votes, "same_decisions": decided}
    return {name: round(float((a == b).mean()), 4) for name, (a, b) in same.items()}


def measure(backbone: str, threads: int, batch: int, options: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(threads)
    device = torch.device(options.device)
    changed = {key: value for key in ("image_px", "width") if (value := getattr(options, key)) is not None}
    settings = SIZES[backbone].model_copy(update=changed)
    all_there = (5, 2) if device.type == "cuda" else MODELS[backbone]
    models, replicas = options.models or all_there[0], options.replicas or all_there[1]
    memory_format = FORMATS[options.memory_format]

    def build_ensemble(precision: Precision) -> Ensemble:
        networks = iter(members(settings, models, replicas))
        place = Place(device=device, precision=precision, memory_format=memory_format)
        return ensemble(networks, place=place)

    ordinary = members(settings, models, replicas)
    for member in ordinary:
        member.network.to(device)
    single, half = build_ensemble("float32"), build_ensemble("bfloat16")
    read = pictures(batch, settings.image_px, device)
    for ask in ways(ordinary, single, half, {name: x[:1] for name, x in read.items()}, device).values():
        ask()
    asks = ways(ordinary, single, half, read, device)
    taken, answers = ask_in_turn(asks, repeats=options.repeats, limit_s=options.seconds)
    exact, rounded = answers["plain"], answers["chosen_bfloat16"]
    gain = ratio(taken, "chosen", over="plain")
    goal = GOALS.get((device.type, backbone, batch))
    return {
        "backbone": backbone,
        "image_px": settings.image_px,
        "networks": len(ordinary),
        "threads": threads,
        "batch": batch,
        "repeats": len(taken["plain"]),
        "shortest_milliseconds": {name: round(1e3 * min(times), 2) for name, times in taken.items()},
        "times_faster": {
            "stacked_than_loop": ratio(taken, "stacked", over="loop"),
            "stacked_than_plain": ratio(taken, "stacked", over="plain"),
            "chosen_than_plain": gain,
            "chosen_than_plain_in_bfloat16": ratio(taken, "chosen_bfloat16", over="plain_bfloat16"),
            "bfloat16_than_float32": ratio(taken, "chosen_bfloat16", over="chosen"),
        },
        "goal_chosen_than_plain": goal,
        "goal_met": None if goal is None else gain >= goal,
        "chosen": chosen(single, read),
        "chosen_bfloat16": chosen(half, read),
        "largest_difference_of_logits": largest_difference(answers["stacked"], exact),
        "largest_logit": max(x.abs().max().item() for x in exact.values()),
        "largest_difference_of_logits_in_bfloat16": largest_difference(rounded, exact),
        "bfloat16": agreement(exact, rounded, replicas) if batch >= FEWEST else None,
    }


def chosen(asked: Ensemble, read: Pictures) -> dict[str, str]:
    return {
        "+".join(stack.images): stack.fastest([read[image] for image in stack.images])
        for stack in asked.stacks
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbones", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 128])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--models", type=int, help="scoring models; each has 6 networks a replica")
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--image-px", type=int)
    parser.add_argument("--width", type=int, help="of the small backbone")
    parser.add_argument("--memory-format", choices=FORMATS, default="channels_last")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--seconds", type=float, default=20, help="a case repeats no longer, but once at least"
    )
    options = parser.parse_args()
    torch.backends.cudnn.fp32_precision = "ieee"  # TF32 would round more than the ways differ
    cases = [
        measure(backbone, threads, batch, options)
        for backbone, threads, batch in product(options.backbones, options.threads, options.batches)
    ]
    print(
        json.dumps(
            {"device": options.device, "memory_format": options.memory_format, "cases": cases}, indent=2
        )
    )


if __name__ == "__main__":
    main()
