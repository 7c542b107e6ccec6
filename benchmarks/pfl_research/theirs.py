"""Trains quickstart's networks over site folders with pfl-research; prints seconds as JSON.

    .venv-pfl/bin/python benchmarks/pfl_research/theirs.py --sites FOLDER... --rounds N --models N --weights FILE

The same network classes, batches, augmentation and AdamW as ours; users are sites, central iterations are rounds,
one network after another. No evaluation.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from shared import plain_loop
from torch import Tensor, nn
from torch.nn import functional as F

from client.data.site_store import site_store
from client.site.site import Site
from common.methods.stages import networks
from common.networks.build import network as build
from common.networks.layout import flatten, load
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.inputs import labels, training_exams
from common.training.sampling import batches
from common.training.seeds import derive_seed


class SiteDataset(Dataset):
    """A site as a user: draws and augments the batches of one round after another."""

    def __init__(self, name: str, data: ExamTensors, spec: NetworkSpec, settings: Settings) -> None:
        exams = training_exams(data, spec)
        super().__init__(raw_data=(exams, labels(data, spec)[exams]), user_id=name)
        self._data, self._spec, self._settings = data, spec, settings
        self._round = 0

    def iter(self, batch_size: int | None) -> Iterator[list[Tensor]]:
        self._round += 1
        exams, targets = self.raw_data
        seed = derive_seed(self._settings.seed, self.user_id, self._spec.identity, self._round)
        generator = torch.Generator().manual_seed(seed)
        drawn = batches(targets, self._settings.training, generator)
        for batch in islice(drawn, self._settings.training.local_steps):
            read = plain_loop.pictures(self._data, exams[batch], self._spec, self._settings, generator)
            yield [*read, targets[batch]]


class WithLoss(nn.Module):
    """A network with the functions that pfl asks for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, *batch: Tensor) -> Tensor:
        *pictures, targets = batch
        return F.cross_entropy(self.network(pictures), targets)

    def metrics(self, *batch: Tensor) -> dict[str, object]:
        raise RuntimeError("nothing is evaluated here")


class WithoutEvaluation(FederatedAveraging):
    """FederatedAveraging evaluates before and after the first round, whatever the frequency; not here."""

    def get_next_central_contexts(self, *args, **kwargs):
        contexts, model, metrics = super().get_next_central_contexts(*args, **kwargs)
        if contexts is not None:
            contexts = tuple(dataclasses.replace(context, do_evaluation=False) for context in contexts)
        return contexts, model, metrics


def train_network(spec: NetworkSpec, sites: dict[str, ExamTensors], settings: Settings) -> Tensor:
    """One network's federated averaging; returns its final weights."""
    users = {name: SiteDataset(name, data, spec, settings) for name, data in sites.items()}
    network = build(spec, settings.network)
    load(network, plain_loop.start(spec, settings))
    network.train()
    training = settings.training
    model = PyTorchModel(
        WithLoss(network),
        local_optimizer_create=functools.partial(
            torch.optim.AdamW, weight_decay=training.weight_decay, fused=True
        ),
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    cohort = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(users)))
    WithoutEvaluation().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=settings.federation.rounds,
            evaluation_frequency=settings.federation.rounds,
            train_cohort_size=len(users),
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(
            training_data=cohort, val_data=cohort, postprocessors=[WeightByDatapoints()]
        ),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=training.batch_size,
            local_num_epochs=None,
            local_num_steps=training.local_steps,
            local_learning_rate=training.learning_rate,
        ),
        send_metrics_to_platform=False,
    )
    return flatten(network)


def train(folders: list[Path], settings: Settings) -> dict[str, Tensor]:
    sites = {site.name: site_store(site, settings).tensors for site in map(Site.open, folders)}
    return {name: train_network(spec, sites, settings) for name, spec in networks(settings).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sites", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--models", type=int, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--weights", type=Path, required=True, help="file for the final weights")
    given = parser.parse_args()
    torch.set_num_threads(1)

    def settings(rounds: int) -> Settings:
        return plain_loop.quickstart(rounds=rounds, models=given.models, overrides=given.set)

    train(given.sites, settings(1))  # warms up
    wall, cpu = time.perf_counter(), time.process_time()
    weights = train(given.sites, settings(given.rounds))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    torch.save(weights, given.weights)
    print(json.dumps({"wall_s": wall, "cpu_s": cpu}))


if __name__ == "__main__":
    main()
