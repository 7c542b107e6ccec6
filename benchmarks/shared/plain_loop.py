"""A plan's networks over sites of random pictures, trained by FedAvg in a plain PyTorch loop.

What others are measured against: ordinary modules, PyTorch's optimiser over their parameters, pictures in the layout
that suits the network on a CPU, everything in memory; no messages, no journal. Batches, augmentation and start
weights are those of the federation, so both end with the same weights up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import settings as configuration
from common.imaging import augment
from common.imaging.prepare import picture
from common.methods.stages import networks
from common.networks.build import initial_weights
from common.networks.build import network as build
from common.networks.layout import flatten, load
from common.networks.spec import NetworkSpec
from common.sections.training import TrainingSettings
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.inputs import labels, training_exams, validation_exams
from common.training.local import SCORING_BATCH
from common.training.sampling import batches
from common.training.schedule import learning_rate
from common.training.seeds import derive_seed

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.toml"


def planned(config: Path, *, rounds: int, models: int, overrides: Sequence[str] = ()) -> Settings:
    """A plan in one stage, with fewer rounds and scoring models, without its baselines."""
    given = (
        f"federation.rounds={rounds}",
        f"rating.models={models}",
        "rating.fusion=joint",
        "evaluate.baselines=false",
    )
    return configuration.load(config, overrides=(*given, *overrides))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One network at one site."""

    site: str
    data: ExamTensors
    spec: NetworkSpec


def train(
    sites: Mapping[str, ExamTensors],
    settings: Settings,
    *,
    workers: int,
    scoring: bool,
) -> dict[str, Tensor]:
    """FedAvg of all networks over all sites; returns the final weights.

    Args:
        sites: exams of each site by its name.
        settings: the run's.
        workers: threads that take jobs of one round.
        scoring: whether each round first scores the received weights on the validation folds.
    """
    specs = networks(settings)
    jobs = [Job(site=name, data=data, spec=spec) for spec in specs.values() for name, data in sites.items()]
    weights = {name: start(spec, settings) for name, spec in specs.items()}
    modules = Modules(settings)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        run = map if workers == 1 else pool.map  # one worker needs no thread
        for server_round in range(1, settings.federation.rounds + 1):
            job = partial(_job, modules, weights=weights, server_round=server_round, score=scoring)
            weights = _means(jobs, run(job, jobs))
        if scoring:
            list(run(partial(_score, modules, weights=weights), jobs))
    return weights


class Modules:
    """A module for each network and each thread that asks, made at first."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._made = threading.local()

    def of(self, spec: NetworkSpec) -> nn.Module:
        made: dict[str, nn.Module] = self._made.__dict__
        if spec.name not in made:
            made[spec.name] = build(spec, self.settings.network)
        return made[spec.name]


def start(spec: NetworkSpec, settings: Settings) -> Tensor:
    """A network's start weights."""
    return initial_weights(spec, settings.network, seed=derive_seed(settings.seed, "start", spec.identity))


def pictures(
    data: ExamTensors,
    exams: Tensor,
    spec: NetworkSpec,
    settings: Settings,
    generator: torch.Generator | None,
) -> list[Tensor]:
    """What a network reads of some exams, augmented where there is a generator."""
    layout = torch.channels_last if settings.network.backbone == "small" else torch.contiguous_format
    read = []
    for name in spec.images:
        stored = data.images[name].index_select(0, exams)
        parameters = None
        if generator is not None and settings.training.augmentation is not None:
            parameters = augment.draw(
                len(exams),
                image=settings.images[name],
                settings=settings.training.augmentation,
                image_px=settings.network.image_px,
                stored_px=stored.shape[-1],
                generator=generator,
            )
        ready = picture(
            stored, settings.images[name], image_px=settings.network.image_px, parameters=parameters
        )
        read.append(ready.contiguous(memory_format=layout))
    return read


def _job(
    modules: Modules, job: Job, *, weights: Mapping[str, Tensor], server_round: int, score: bool
) -> tuple[Tensor, int]:
    """Trained weights and the number of exams behind them."""
    if score:
        _score(modules, job, weights=weights)
    module = modules.of(job.spec)
    return trained(module, job, weights[job.spec.name], settings=modules.settings, server_round=server_round)


def trained(
    module: nn.Module, job: Job, weights: Tensor, *, settings: Settings, server_round: int
) -> tuple[Tensor, int]:
    """A site's weights after a round, and the number of exams behind them."""
    load(module, weights)
    training = settings.training
    optimiser = fresh_optimiser(module.parameters(), training)
    generator = torch.Generator().manual_seed(
        derive_seed(settings.seed, job.site, job.spec.identity, server_round)
    )
    exams = training_exams(job.data, job.spec)
    targets = labels(job.data, job.spec)[exams]
    module.train()
    for step, batch in enumerate(islice(batches(targets, training, generator), training.local_steps)):
        optimiser.param_groups[0]["lr"] = learning_rate(
            training,
            step=(server_round - 1) * training.local_steps + step,
            total=settings.federation.rounds * training.local_steps,
        )
        optimiser.zero_grad()
        logits = module(pictures(job.data, exams[batch], job.spec, settings, generator))
        F.cross_entropy(logits, targets[batch]).backward()
        optimiser.step()
    return flatten(module), len(exams)


def fresh_optimiser(parameters: Iterable[Tensor], training: TrainingSettings) -> torch.optim.Optimizer:
    """The plan's, as PyTorch has it."""
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=training.momentum, weight_decay=decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def _score(modules: Modules, job: Job, *, weights: Mapping[str, Tensor]) -> Tensor:
    module, settings = modules.of(job.spec), modules.settings
    load(module, weights[job.spec.name])
    module.eval()
    with torch.inference_mode():
        chunks = validation_exams(job.data, job.spec).split(SCORING_BATCH)
        logits = [module(pictures(job.data, chunk, job.spec, settings, None)) for chunk in chunks]
        return torch.cat(logits).softmax(dim=1)


def _means(jobs: Sequence[Job], trained: Iterable[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """Each network's mean over the sites, weighted by exams; a reply is let go once it is added."""
    total: dict[str, Tensor] = {}
    count: dict[str, int] = {}
    for job, (weights, exams) in zip(jobs, trained, strict=True):
        name = job.spec.name
        total[name] = weights.mul_(exams) if name not in total else total[name].add_(weights, alpha=exams)
        count[name] = count.get(name, 0) + exams
    return {name: values.div_(count[name]) for name, values in total.items()}


def relative_difference(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], settings: Settings
) -> float:
    """Distance between two sets of final weights over the distance that training took them.

    Not zero: rounding differs where arrays are laid out differently, and Adam blows it up where a gradient is
    nearly zero. Other batches, or another rate, would give a value near one.
    """
    begun = {name: start(spec, settings) for name, spec in networks(settings).items()}
    return max(
        float((ours[name] - theirs[name]).norm() / (theirs[name] - begun[name]).norm()) for name in begun
    )
