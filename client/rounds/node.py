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
from common.aggregation.federated import WEIGHTS, LocalRound
from common.aggregation.together import local_updates
from common.encodings import RESIDUAL, sent_update
from common.ensemble.stacked_regression import NormalSums
from common.errors import UpdateError
from common.evaluation.histograms import ScoreHistograms
from common.exam import MISSING
from common.messages import Histograms, MissingWeights, NetworkReply, Products, TrainReply, TrainRequest
from common.methods.stages import networks, stacked
from common.settings import Settings
from common.training import answers
from common.training.data import ExamTensors
from common.training.flat_network import flat_network
from common.training.inputs import labels, validation_exams, wanted
from common.training.local import LocalUpdate, score
from common.training.local_settings import LocalSettings, local_settings
from common.training.seeds import derive_seed
from common.training.together import stacks
from common.training.trainable import patients_of_classes, trains


def train(
    site: Site,
    request: TrainRequest,
    settings: Settings,
    *,
    device: torch.device,
    share: int = 1,
    data: ExamTensors | None = None,
    stacked_training: bool = False,
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
        stacked_training: whether networks of one shape train at once.

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
    for name, spec in planned.items():
        received = {
            key: torch.from_numpy(np.array(values)) for key, values in request.extra.get(name, {}).items()
        }
        received[WEIGHTS] = torch.from_numpy(np.array(request.weights[name]))
        frozen = {part: cache.get(ref) for part, ref in request.frozen.get(name, {}).items()}
        local = _smaller(local_settings(spec, settings, device=device, frozen=frozen), share)
        works[name] = _Work(algorithm=federated, received=received, data=data, local=local, states=states)
    replies: dict[str, NetworkReply] = {}
    each = list(works.values())
    for places in stacks([work.local for work in each], stacked=stacked_training):
        replies |= _train_some(site, request, [each[place] for place in places], settings)
    scored = {name: work for name, work in works.items() if request.server_round > work.local.rounds}
    return TrainReply(
        site=site.name,
        request_id=request.request_id,
        networks={name: replies[name] for name in works},
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


def _train_some(
    site: Site, request: TrainRequest, works: Sequence[_Work], settings: Settings
) -> dict[str, NetworkReply]:
    """The replies of networks that train together, or of one, by name."""
    states = [
        work.states.read(work.local.spec.name, request.state_round) if work.states is not None else {}
        for work in works
    ]
    residuals = [state.pop(RESIDUAL, None) for state in states]
    rounds = [_round(site, request, work, state, settings) for work, state in zip(works, states, strict=True)]
    counts = [_counts(site, work, one.site_state, settings) for work, one in zip(works, rounds, strict=True)]
    names = [work.local.spec.name for work in works]
    if request.server_round > works[0].local.rounds:  # those that train together have equally many
        return {
            name: NetworkReply(update=None, num_examples=0, loss=float("nan"), histograms=found)
            for name, found in zip(names, counts, strict=True)
        }
    done = local_updates(works[0].algorithm, rounds)
    return {
        name: _reply(site, request, work, settings, trained, after, residual=residual, histograms=found)
        for name, work, residual, found, (trained, after) in zip(
            names, works, residuals, counts, done, strict=True
        )
    }


def _round(
    site: Site, request: TrainRequest, work: _Work, state: Mapping[str, Tensor], settings: Settings
) -> LocalRound:
    spec = work.local.spec
    return LocalRound(
        received=work.received,
        site_state=state,
        data=_large_enough(site, work.data, work.local, settings),
        settings=work.local,
        server_round=request.server_round,
        seed=derive_seed(settings.seed, site.name, spec.identity, request.server_round),
    )


def _reply(
    site: Site,
    request: TrainRequest,
    work: _Work,
    settings: Settings,
    trained: LocalUpdate,
    after: Mapping[str, Tensor],
    *,
    residual: Tensor | None,
    histograms: Histograms | None,
) -> NetworkReply:
    name, policy = work.local.spec.name, site.policy
    if not np.isfinite(trained.update.numpy()).all():  # torch takes ten times as long
        raise UpdateError(
            f"Expected finite weights of {name} after training, got NaN or infinity: nothing leaves"
        )
    if settings.federation.feeds_back:
        trained, residual = _with_feedback(trained, residual, work.local)
        after = {**after, RESIDUAL: residual}
    if work.states is not None:
        work.states.write(name, request.server_round, after, keep=request.state_round)
    return NetworkReply(
        update=trained.update.numpy(),
        num_examples=trained.num_examples if policy.permits("counts") else min(trained.num_examples, 1),
        loss=trained.loss if policy.permits("losses") else float("nan"),
        histograms=histograms,
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


def _counts(site: Site, work: _Work, state: Mapping[str, Tensor], settings: Settings) -> Histograms | None:
    """What the site tells of the received weights on the validation fold."""
    if not site.policy.permits("score_histograms"):
        return None
    weights = work.algorithm.scored_weights(work.received, state, work.local)
    histograms = _histograms(site, weights, work.data, work.local, settings)
    return histograms.counts if histograms is not None else None


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
