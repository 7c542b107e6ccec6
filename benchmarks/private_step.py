"""Time and memory of a private step, against the same step without privacy and through Opacus's hooks, as JSON.

    python benchmarks/private_step.py [--patients 150] [--images 8] [--features 512] [--hidden 0 32] [--members 3]
    python benchmarks/private_step.py --only network [--device cuda]

Of heads: all ways compute the gradient of the same heads (members x two tasks of four grades, on frozen features)
over the same patients, and are taken in turn in one process and one thread; ratios are medians of ratios of
neighbours, of processor time.

* ``plain``: the mean loss, ``backward``, no clipping, no noise;
* ``private``: what a site does: clipped by patient over all heads, noised from ChaCha20, on the grid;
* ``opacus``: one gradient per row by Opacus's hooks (``GradSampleModule``), averaged by patient, clipped, noised by
  ``torch.normal``.

``largest_difference`` is between the sums of private and Opacus before noise, relative to their norm.

Of a whole network (the small backbone at 64 px, one picture a patient): a step as a site takes it against the mean
loss of the same pictures, ``backward`` and the same optimiser's step, on the same device.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local_training import exams, settings
from opacus.grad_sample import GradSampleModule

from common.networks import build
from common.privacy.mechanism.heads import Heads, HeadShape, initial_weights, layers, patient_rows
from common.privacy.mechanism.network_training import PrivateTraining
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.patient_step import StepSettings, clipped_sum, private_gradient
from common.training.flat_network import FlatNetwork
from common.training.inputs import inputs, labels
from common.training.local import autocast, fresh_optimiser

TASKS, NORM, GOALS = 2, 0.5, {"private_over_plain": 2.0, "private_over_opacus": 1 / 3}
NETWORK_GOAL = 1.5


def make_heads(arguments: argparse.Namespace, hidden: int | None) -> Heads:
    generator = torch.Generator().manual_seed(0)
    count, exams = arguments.members * TASKS, arguments.patients * arguments.images
    rows = patient_rows(
        torch.randn(count, exams, 1, arguments.features, generator=generator),
        torch.randint(0, 4, (count, exams), generator=generator),
        torch.arange(arguments.patients).repeat_interleave(arguments.images),
        patients=arguments.patients,
        images=arguments.images,
    )
    shape = HeadShape(features=arguments.features, hidden=hidden)
    class_weights = torch.tensor([1.0, 1.5, 2.0, 3.0]).expand(count, -1)
    return Heads(shape=shape, rows=rows, class_weights=class_weights)


def modules(weights: Tensor, heads: Heads) -> list[nn.Module]:
    """The heads as ordinary modules with the same weights."""
    made: list[nn.Module] = []
    for part in weights.split(heads.shape.size):
        linear = [nn.Linear(inputs, outputs) for inputs, outputs in heads.shape.layers]
        with torch.no_grad():
            for layer, (weight, bias) in zip(linear, layers(part, heads.shape, heads=1), strict=True):
                layer.weight.copy_(weight[0])
                layer.bias.copy_(bias[0])
        made.append(nn.Sequential(*[m for layer in linear for m in (layer, nn.ReLU())][:-1]))
    return made


def plain_step(networks: list[nn.Module], heads: Heads) -> Callable[[], Tensor]:
    parameters = [p for network in networks for p in network.parameters()]

    def step() -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        read, grades = heads.rows.features.flatten(1, 2), heads.rows.grades.flatten(1)
        for network, features, truth, weight in zip(networks, read, grades, heads.class_weights, strict=True):
            F.cross_entropy(network(features), truth, weight=weight).backward()
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    return step


def opacus_step(networks: list[nn.Module], heads: Heads, *, sigma: float) -> Callable[[], Tensor]:
    hooked = [GradSampleModule(network, loss_reduction="sum") for network in networks]
    parameters = [p for network in hooked for p in network.parameters()]

    def step() -> Tensor:
        read, grades = heads.rows.features.flatten(1, 2), heads.rows.grades.flatten(1)
        for network, features, truth, weight in zip(hooked, read, grades, heads.class_weights, strict=True):
            network.zero_grad()
            losses = F.cross_entropy(network(features.requires_grad_()), truth, reduction="none")
            (losses * weight[truth]).sum().backward()
        patients = heads.rows.patients
        each = [p.grad_sample.unflatten(0, (patients, -1)).mean(1) for p in parameters]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in each]).norm(dim=0)
        scale = (NORM / norms).clamp(max=1)
        total = torch.cat([torch.einsum("n,n...->...", scale, g).flatten() for g in each])
        return total + torch.normal(0.0, sigma * NORM, total.shape) if sigma else total

    return step


def compare(
    ways: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each way, in turn; by default of the processor: other work on the machine is not counted."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = clock()
            way()
            seconds[name].append(clock() - begin)
    return seconds


def ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def measure(arguments: argparse.Namespace, hidden: int | None) -> dict[str, object]:
    heads = make_heads(arguments, hidden)
    generator = torch.Generator().manual_seed(1)
    weights = torch.cat([initial_weights(heads.shape, generator) for _ in heads.class_weights])
    networks = modules(weights, heads)
    settings = StepSettings(
        max_grad_norm=NORM, noise_multiplier=1.0, sample_rate=1, patients=arguments.patients
    )
    ours = clipped_sum(weights, [heads], max_norm=NORM).total
    theirs = opacus_step(modules(weights, heads), heads, sigma=0.0)().double()
    seconds = compare(
        {
            "plain": plain_step(networks, heads),
            "private": lambda: private_gradient(weights, [heads], settings, entropy=os.urandom(32)).gradient,
            "opacus": opacus_step(modules(weights, heads), heads, sigma=1.0),
        },
        arguments.repeats,
    )
    over_plain, over_opacus = (ratio(seconds["private"], seconds[name]) for name in ("plain", "opacus"))
    return {
        "hidden": hidden,
        "weights": len(weights),
        "shortest_milliseconds": {name: round(1e3 * min(values), 2) for name, values in seconds.items()},
        "private_over_plain": round(over_plain, 2),
        "private_over_opacus": round(over_opacus, 3),
        "opacus_over_plain": round(ratio(seconds["opacus"], seconds["plain"]), 2),
        "largest_difference": float((ours - theirs).norm() / theirs.norm()),
        "goals_met": over_plain <= GOALS["private_over_plain"]
        and over_opacus <= GOALS["private_over_opacus"],
    }


def measure_network(arguments: argparse.Namespace) -> dict[str, object]:
    device = torch.device(arguments.device)
    given = argparse.Namespace(
        batch=min(64, arguments.patients), backbone="small", image_px=64, device=device
    )
    ordinary = settings(("doppler",), 8, 1, given)
    local = replace(ordinary, training=ordinary.training.model_copy(update={"sampling": "all"}))
    data = exams(arguments.patients, 64)
    weights = build.initial_weights(local.spec, local.network, seed=0)
    step = StepSettings(max_grad_norm=NORM, noise_multiplier=1.0, sample_rate=1.0, patients=len(data))
    training = PrivateTraining(
        weights,
        data,
        local,
        step,
        images=1,
        class_weights=torch.ones(local.spec.target.classes),
        server_round=1,
        seed=0,
    )
    network = FlatNetwork(build.network(local.spec, local.network), device)
    network.load(weights)
    network.training_mode()
    optimiser = fresh_optimiser(network.trained, local.training)
    everyone, classes, generator = torch.arange(len(data)), labels(data, local.spec), torch.Generator()

    def plain() -> None:
        network.trained.grad.zero_()
        for batch in everyone.split(given.batch):
            pictures, right = inputs(data, batch, classes[batch], local, generator)
            with autocast(device):
                loss = F.cross_entropy(network.module(pictures), right, reduction="sum") / len(data)
            loss.backward()
        optimiser.step()

    def clock() -> float:
        if device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    ways = {"plain": plain, "private": lambda: training.step(entropy=os.urandom(32))}
    seconds = compare(ways, arguments.repeats, clock)
    over = ratio(seconds["private"], seconds["plain"])
    return {
        "device": arguments.device,
        "weights": len(weights),
        "patients": len(data),
        "shortest_milliseconds": {name: round(1e3 * min(values), 2) for name, values in seconds.items()},
        "private_over_plain": round(over, 2),
        "goal": NETWORK_GOAL,
        "goal_met": over <= NETWORK_GOAL,
    }


def noise_rate(count: int = 200_000) -> dict[str, float]:
    """Millions of values per second, and how many times faster torch's seeded generator is."""
    seconds = compare(
        {
            "private": lambda: torch.from_numpy(KeyStream(os.urandom(32), "noise").gaussian(count)),
            "torch": lambda: torch.randn(count, dtype=torch.float64),
        },
        9,
    )
    rate = count / min(seconds["private"]) / 1e6
    return {"million_per_s": round(rate, 1), "torch_times_faster": round(ratio(*seconds.values()), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patients", type=int, default=150)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--hidden", type=int, nargs="+", default=[0, 32], help="0: linear heads")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", choices=("heads", "network"))
    parser.add_argument("--device", default="cpu", help="of the whole network; heads are always on the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {
        key: getattr(arguments, key) for key in ("patients", "images", "features", "members")
    }
    if arguments.only != "network":
        measured = [measure(arguments, width or None) for width in arguments.hidden]
        result |= {"goals": GOALS, "noise": noise_rate(), "measured": measured}
    if arguments.only != "heads":
        result["network"] = measure_network(arguments)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
