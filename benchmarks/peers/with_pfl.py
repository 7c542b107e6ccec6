"""A side of ``compare.py``: pfl-research's simulation, one process.

    .venv-pfl/bin/python benchmarks/peers/with_pfl.py FOLDER OUT

Users are sites, central iterations are rounds; pfl's own loop takes the steps, on the same network, batches,
augmentation and optimiser as the other sides. No evaluation.
"""

import dataclasses
from collections.abc import Iterator
from itertools import islice

import torch
import work
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

from common.networks.build import network as build
from common.networks.layout import flatten, load
from common.training.inputs import labels, training_exams
from common.training.sampling import batches
from common.training.seeds import derive_seed


class SiteDataset(Dataset):
    """A site as a user: draws and augments the batches of one round after another."""

    def __init__(self, asked: work.Work, site: str) -> None:
        self._asked, self._data, self._round = asked, asked.exams(site), 0
        exams = training_exams(self._data, asked.spec)
        super().__init__(raw_data=(exams, labels(self._data, asked.spec)[exams]), user_id=site)

    def iter(self, batch_size: int | None) -> Iterator[list[Tensor]]:
        self._round += 1
        self._asked.began(self._round)
        (exams, targets), spec, settings = self.raw_data, self._asked.spec, self._asked.settings
        seed = derive_seed(settings.seed, self.user_id, spec.identity, self._round)
        generator = torch.Generator().manual_seed(seed)
        for batch in islice(batches(targets, settings.training, generator), settings.training.local_steps):
            read = plain_loop.pictures(self._data, exams[batch], spec, settings, generator)
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

    def get_next_central_contexts(self, *args: object, **kwargs: object) -> tuple[object, object, object]:
        contexts, model, metrics = super().get_next_central_contexts(*args, **kwargs)
        if contexts is not None:
            contexts = tuple(dataclasses.replace(context, do_evaluation=False) for context in contexts)
        return contexts, model, metrics


def train(asked: work.Work) -> Tensor:
    """Federated averaging; returns the final weights."""
    settings, users = asked.settings, {name: SiteDataset(asked, name) for name in asked.sites}
    network = build(asked.spec, settings.network)
    load(network, asked.start())
    network.train()
    training = settings.training
    model = PyTorchModel(
        WithLoss(network),
        local_optimizer_create=lambda parameters, lr: plain_loop.fresh_optimiser(parameters, training),
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


if __name__ == "__main__":
    given = work.asked()
    given.done(train(given))
