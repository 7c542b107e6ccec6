"""Measures what a training step and the scoring of an exam cost on this machine, with pixels that mean nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from client.data.pictures.pictures import stored_shape
from common.networks import build
from common.networks.build import initial_weights
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.local import score, train_network
from common.training.local_settings import LocalSettings, local_settings
from server.campaign.campaign_cost import cost_key, label
from simulation.engine import engines

PROBE_EXAMS = 4
MEASURED_S = 1.0
"""Short steps are repeated for so long."""
AT_ONCE = 4
"""Workers that are measured side by side: they share memory and caches, so one alone would be too fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What networks of one shape cost a worker.

    Attributes:
        label: what the networks are, for a person.
        key: networks of equal key cost the same.
        step_s: one training step of a whole batch.
        exam_s: scoring one exam.
        batch_size: exams per step, for which ``step_s`` holds.
        measured_batch_size: exams per measured step; where it is smaller, ``step_s`` is scaled up.
        steps: that were measured, after a warm-up.
        device: where.
        threads: of each worker.
        at_once: workers that were busy.
    """

    label: str
    key: str
    step_s: float
    exam_s: float
    batch_size: int
    measured_batch_size: int
    steps: int
    device: str
    threads: int
    at_once: int


def measure(spec: NetworkSpec, settings: Settings, *, batch_size: int, budget_s: float = 20.0) -> Measured:
    """Train a network for a few steps on random pictures.

    Args:
        spec: one of the networks of its shape.
        settings: the configuration; its devices and threads are used as the simulation uses them.
        batch_size: exams per step.
        budget_s: about how long it may take: first a few exams are tried, then as many exams per step, up to the
            batch size, as fit into a quarter of it, then a warm-up, and as many steps as fit.
    """
    devices = engines.devices(settings.compute)
    at_once = devices[: min(AT_ONCE, len(devices))]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(max_workers=len(at_once)) as pool:

            def mean(task: Callable[[torch.device], float]) -> float:
                return sum(pool.map(task, map(torch.device, at_once))) / len(at_once)

            def train(exams: int, steps: int) -> float:
                return mean(partial(_train_s, spec, settings, exams=exams, steps=steps)) / steps

            probe = min(PROBE_EXAMS, batch_size)
            train(probe, 1)
            exams = _fitting(batch_size, train(probe, 1) / probe, budget_s / 4)
            steps = _steps(train(exams, 1), budget_s / 2)
            step_s = train(exams, steps)
            exam_s = mean(partial(_score_s, spec, settings, exams=exams)) / exams
    finally:
        torch.set_num_threads(before)
    return Measured(
        label=label(spec),
        key=cost_key(spec),
        step_s=step_s * batch_size / exams,
        exam_s=exam_s,
        batch_size=batch_size,
        measured_batch_size=exams,
        steps=steps,
        device=at_once[0],
        threads=settings.compute.threads,
        at_once=len(at_once),
    )


def measure_all(
    specs: Sequence[NetworkSpec],
    settings: Settings,
    *,
    batch_size: Callable[[NetworkSpec], int],
    budget_s: float = 20.0,
) -> tuple[Measured, ...]:
    """One measurement for each distinct cost, see :func:`measure`."""
    shapes = {cost_key(spec): spec for spec in reversed(specs)}
    return tuple(
        measure(spec, settings, batch_size=batch_size(spec), budget_s=budget_s)
        for spec in reversed(shapes.values())
    )


def _fitting(batch_size: int, exam_s: float, budget_s: float) -> int:
    """Exams per step that fit into a time budget."""
    return max(min(PROBE_EXAMS, batch_size), min(batch_size, int(budget_s / exam_s)))


def _steps(step_s: float, budget_s: float) -> int:
    """Enough short steps to be measured well, at least two where they fit, and one."""
    wanted = max(2, math.ceil(MEASURED_S / step_s))
    return max(1, min(wanted, int(budget_s / step_s)))


def _train_s(spec: NetworkSpec, settings: Settings, device: torch.device, *, exams: int, steps: int) -> float:
    """Seconds of a round with this many steps."""
    torch.set_num_threads(settings.compute.threads)
    local, data, weights = _local(spec, settings, device, exams, steps)
    started = time.perf_counter()
    train_network(weights, {}, data, local, 1, 0)
    return time.perf_counter() - started


def _score_s(spec: NetworkSpec, settings: Settings, device: torch.device, *, exams: int) -> float:
    """Seconds to score this many exams."""
    torch.set_num_threads(settings.compute.threads)
    local, data, weights = _local(spec, settings, device, exams, 1)
    started = time.perf_counter()
    score(weights, data, torch.arange(exams), local)
    return time.perf_counter() - started


def _local(
    spec: NetworkSpec, settings: Settings, device: torch.device, exams: int, steps: int
) -> tuple[LocalSettings, ExamTensors, Tensor]:
    frozen = {
        piece.part: torch.zeros(build.part_layout(spec, settings.network, piece.part).size)
        for piece in spec.frozen
    }
    planned = local_settings(spec, settings, device=device, frozen=frozen)
    training = planned.training.model_copy(
        update={"batch_size": exams, "local_steps": steps, "sampling": "shuffled"}
    )
    local = replace(planned, training=training)
    return local, _random_exams(spec, settings, exams), initial_weights(spec, settings.network, seed=0)


def _random_exams(spec: NetworkSpec, settings: Settings, exams: int) -> ExamTensors:
    """Pictures of noise; the grades go through all values, so that every class is there."""
    generator = torch.Generator().manual_seed(0)
    names = list(settings.measurements)
    grades = max(graded.grades for graded in settings.measurements.values())
    count = max(exams, grades)
    return ExamTensors(
        images={
            name: torch.randint(
                0,
                256,
                (count, *stored_shape(settings.images[name], settings.network.image_px)),
                dtype=torch.uint8,
                generator=generator,
            )
            for name in spec.images
        },
        grades={name: (torch.arange(count) % grades).to(torch.int8) for name in names},
        fold=torch.full((count,), spec.fold + 1, dtype=torch.int8),
        patient=torch.arange(count, dtype=torch.int32),
        numbers={name: torch.linspace(0, 1, count) for name in settings.numbers},
    )
