"""A site's answer to a request to train. No Flower here, and nothing that knows of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from client.data.site_store import site_store
from client.rounds.requests import checked
from client.site.site import Site
from client.state.site_state import SiteState
from client.state.weights_cache import WeightsCache
from common.aggregation.algorithms import FederatedAlgorithm, algorithm, keeps_state
from common.aggregation.federated import WEIGHTS
from common.encodings import RESIDUAL, sent_update
from common.ensemble.stacked_regression import NormalSums
from common.errors import UpdateError
from common.evaluation.histograms import ScoreHistograms
from common.exam import MISSING
from common.messages import MissingWeights, NetworkReply, Products, TrainReply, TrainRequest
from common.methods.stages import networks, stacked
from common.settings import Settings
from common.training import answers
from common.training.data import ExamTensors
from common.training.flat_network import flat_network
from common.training.inputs import labels, validation_exams, wanted
from common.training.local import LocalUpdate, score
from common.training.local_settings import LocalSettings, local_settings
from common.training.seeds import derive_seed
from common.training.trainable import patients_of_classes, trains


def train(
    site: Site,
    request: TrainRequest,
    settings: Settings,
    *,
    device: torch.device,
    share: int = 1,
    data: ExamTensors | None = None,
) -> TrainReply | MissingWeights:
    """Train one group of networks for one round.

    A pure function of the request, the site's data, and what the site kept of the round that the request names.

    Args:
        site: the site.
        request: what to train, from which weights.
        settings: of the campaign, as the site approved it.
        device: where to compute.
        share: by what batch sizes are divided, where memory is short.
        data: what to train on; ``None``: the site's exams.

    Returns:
        The reply, or which frozen weights are not in the site's cache and have to come with the request.

    Raises:
        PolicyError: if the round is none of the plan's.
        UpdateError: if a network is not in the plan or its weights are not what the plan says.
        SiteStateError: if the site lost what it kept of the round before.
    """
    federated = algorithm(settings.federation)
    planned = checked(request, settings, federated, device=device)
    cache = WeightsCache(site.folder, plan_hash=request.plan_hash, run=request.run)
    cache.add(request.attached)
    missing = cache.missing(ref for parts in request.frozen.values() for ref in parts.values())
    if missing:
        return MissingWeights(site=site.name, request_id=request.request_id, hashes=missing)
    data = site_store(site, settings).tensors if data is None else data
    states = (
        SiteState(site.folder, plan_hash=request.plan_hash, run=request.run)
        if keeps_state(federated, settings.federation)
        else None
    )
    works: dict[str, _Work] = {}
    replies: dict[str, NetworkReply] = {}
    for name, spec in planned.items():
        received = {
            key: torch.from_numpy(np.array(values)) for key, values in request.extra.get(name, {}).items()
        }
        received[WEIGHTS] = torch.from_numpy(np.array(request.weights[name]))
        frozen = {part: cache.get(ref) for part, ref in request.frozen.get(name, {}).items()}
        local = _smaller(local_settings(spec, settings, device=device, frozen=frozen), share)
        works[name] = _Work(algorithm=federated, received=received, data=data, local=local, states=states)
        replies[name] = _train_one(site, request, works[name], settings)
    scored = {name: work for name, work in works.items() if request.server_round > work.local.rounds}
    return TrainReply(
        site=site.name,
        request_id=request.request_id,
        networks=replies,
        stacking=_stacking(site, scored, settings),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One network of a request, with all that its training needs."""

    algorithm: FederatedAlgorithm
    received: Mapping[str, Tensor]
    data: ExamTensors
    local: LocalSettings
    states: SiteState | None


def _smaller(local: LocalSettings, share: int) -> LocalSettings:
    if share == 1:
        return local
    batch_size = max(2, local.training.batch_size // share)  # norms need two
    return replace(local, training=local.training.model_copy(update={"batch_size": batch_size}))


def _train_one(site: Site, request: TrainRequest, work: _Work, settings: Settings) -> NetworkReply:
    name, federated, local = work.local.spec.name, work.algorithm, work.local
    state = work.states.read(name, request.state_round) if work.states is not None else {}
    residual = state.pop(RESIDUAL, None)
    counts = None
    policy = site.policy
    if policy.permits("score_histograms"):
        histograms = _histograms(
            site, federated.scored_weights(work.received, state, local), work.data, local, settings
        )
        counts = histograms.counts if histograms is not None else None
    if request.server_round > local.rounds:
        return NetworkReply(update=None, num_examples=0, loss=float("nan"), histograms=counts)
    data = _large_enough(site, work.data, local, settings)
    seed = derive_seed(settings.seed, site.name, local.spec.identity, request.server_round)
    trained, after = federated.local_update(work.received, state, data, local, request.server_round, seed)
    if not np.isfinite(trained.update.numpy()).all():  # torch takes ten times as long
        raise UpdateError(
            f"Expected finite weights of {name} after training, got NaN or infinity: nothing leaves"
        )
    if settings.federation.feeds_back:
        trained, residual = _with_feedback(trained, residual, local)
        after = {**after, RESIDUAL: residual}
    if work.states is not None:
        work.states.write(name, request.server_round, after, keep=request.state_round)
    return NetworkReply(
        update=trained.update.numpy(),
        num_examples=trained.num_examples if policy.permits("counts") else min(trained.num_examples, 1),
        loss=trained.loss if policy.permits("losses") else float("nan"),
        histograms=counts,
        extra={key: values.numpy() for key, values in trained.extra.items()},
    )


def _with_feedback(
    trained: LocalUpdate, residual: Tensor | None, local: LocalSettings
) -> tuple[LocalUpdate, Tensor]:
    """What leaves of an update and of what earlier ones lost, and what is lost now; all of it where none counts."""
    residual = torch.zeros_like(trained.update) if residual is None else residual
    if residual.shape != trained.update.shape:
        raise UpdateError(
            f"Expected {len(trained.update)} values that updates of {local.spec.name} lost, got {len(residual)}"
        )
    if not trained.num_examples:
        return trained, residual
    layout = flat_network(local.spec, local.network, local.device).layout
    sent, lost = sent_update(trained.update.numpy(), residual.numpy(), trained=layout.trained_size)
    return replace(trained, update=torch.from_numpy(sent)), torch.from_numpy(lost)


def _large_enough(site: Site, data: ExamTensors, local: LocalSettings, settings: Settings) -> ExamTensors:
    """The data, or none where the network does not train here: its update then has no weight."""
    policy = site.policy
    of_class = policy.of_class(settings)
    if trains(data, local.spec, minimum_cohort=policy.minimum_cohort, of_class=of_class):
        return data
    return replace(data, fold=torch.full_like(data.fold, MISSING))


def _histograms(
    site: Site, weights: Tensor, data: ExamTensors, local: LocalSettings, settings: Settings
) -> ScoreHistograms | None:
    """Scores of the received weights on the validation fold, unless too few patients stand behind them."""
    if not local.selects:
        return None
    exams = validation_exams(data, local.spec)
    if len(data.patient[exams].unique()) < site.policy.minimum_cohort:
        return None
    of_class = site.policy.of_class(settings).get(local.spec.target.measurement, 0)
    if min(patients_of_classes(data, local.spec, exams), default=0) < of_class:
        return None
    probabilities = score(weights, data, exams, local)
    if not bool(torch.isfinite(probabilities).all()):
        raise UpdateError(
            f"Expected weights of {local.spec.name} that give finite scores, got NaN or infinity"
        )
    target = local.spec.target
    return ScoreHistograms.from_scores(
        answers.expected(probabilities, target).numpy(),
        labels(data, local.spec)[exams].numpy(),
        classes=target.classes,
    )


def _stacking(site: Site, works: Mapping[str, _Work], settings: Settings) -> dict[str, Products]:
    """Sums over each fold's patients of what its networks, with their final weights, say of them.

    Of a fold whose networks are not all asked there are none, and none where too few patients stand behind them.
    """
    if not works or not site.policy.permits("stacking_sums"):
        return {}
    found = {}
    for name, specs in stacked(networks(settings).values(), settings).items():
        if all(spec.name in works for spec in specs):
            asked = [works[spec.name] for spec in specs]
            exams = validation_exams(asked[0].data, specs[0])
            if len(asked[0].data.patient[exams].unique()) >= site.policy.minimum_cohort:
                found[name] = _normal_sums(asked, exams).matrix
    return found


def _normal_sums(works: Sequence[_Work], exams: Tensor) -> NormalSums:
    answers = [score(work.received[WEIGHTS], work.data, exams, work.local)[:, 0] for work in works]
    if not all(bool(torch.isfinite(values).all()) for values in answers):
        raise UpdateError("Expected weights that give finite numbers, got NaN or infinity")
    truth = wanted(works[0].data, works[0].local.spec)[exams]
    return NormalSums.of(torch.stack(answers, dim=1).double().numpy(), truth.double().numpy())
