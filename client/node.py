"""A site's answers: to a plan, and to a request to train. No Flower here, and nothing that knows of a simulation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from client import keys
from client.site import Site
from client.site_state import SiteState
from client.weights_cache import WeightsCache
from common.aggregation.algorithms import FederatedAlgorithm, algorithm
from common.aggregation.federated import WEIGHTS, check_sent
from common.errors import DataError, PolicyError, UpdateError
from common.evaluation.histograms import ScoreHistograms
from common.messages import MissingWeights, NetworkReply, PlanReply, PlanRequest, TrainReply, TrainRequest
from common.methods.stages import networks
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.flat_network import flat_network
from common.training.inputs import labels, validation_exams
from common.training.local import score
from common.training.local_settings import LocalSettings, local_settings
from common.training.seeds import derive_seed
from common.version import VERSION


def consider_plan(site: Site, request: PlanRequest) -> PlanReply:
    """Check a campaign against the site's version and policy, prepare the store, remember the plan.

    Raises:
        PolicyError: if the version differs, the plan is not what its hash says, or the policy forbids it.
        DataError: if the site's data cannot serve the plan.
    """
    if request.version != VERSION:
        raise PolicyError(f"Expected synofed {VERSION} at the centre, got {request.version}")
    if hashlib.sha256(request.plan.encode()).hexdigest() != request.plan_hash:
        raise PolicyError("Expected a plan that fits its hash, got another")
    settings = _settings(request.plan, campaign=request.campaign)
    site.policy.check_plan(settings)
    store = site.store(settings)
    folder = _plans(site)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{request.plan_hash}.json").write_text(request.plan, encoding="utf-8")
    return PlanReply(
        site=site.name,
        version=VERSION,
        plan_hash=settings.plan_hash(),
        usable=store.usable,
        public_key=keys.public_key(site.folder),
    )


def train(site: Site, request: TrainRequest, *, device: torch.device) -> TrainReply | MissingWeights:
    """Train one group of networks for one round.

    A pure function of the request, the site's data, and what the site kept of the round that the request names.

    Returns:
        The reply, or which frozen weights are not in the site's cache and have to come with the request.

    Raises:
        PolicyError: if the plan was never agreed to, or the policy has changed since.
        UpdateError: if a network is not in the plan or has another layout.
        SiteStateError: if the site lost what it kept of the round before.
    """
    settings = _agreed_settings(site, request)
    site.policy.check_plan(settings)
    known = networks(settings)
    unknown = sorted(set(request.weights) - set(known))
    if unknown:
        raise UpdateError(f"Expected networks of the plan, got {unknown}")
    cache = WeightsCache(site.folder, plan_hash=request.plan_hash)
    cache.add(request.attached)
    missing = cache.missing(ref for parts in request.frozen.values() for ref in parts.values())
    if missing:
        return MissingWeights(site=site.name, request_id=request.request_id, hashes=missing)
    data = site.store(settings).tensors
    federated = algorithm(settings.federation)
    states = _states(site, request, federated)
    replies: dict[str, NetworkReply] = {}
    for name, sent in request.weights.items():
        spec = known[name]
        layout = flat_network(spec, settings.network, device).layout
        if request.layouts[name] != layout.hash:
            raise UpdateError(f"Expected the layout of {name} as the plan has it, got another")
        extra = request.extra.get(name, {})
        check_sent(extra, federated, trained=layout.trained_size)
        received = {key: torch.from_numpy(np.array(values)) for key, values in extra.items()}
        received[WEIGHTS] = torch.from_numpy(np.array(sent))
        frozen = {part: cache.get(ref) for part, ref in request.frozen.get(name, {}).items()}
        local = local_settings(spec, settings, device=device, frozen=frozen)
        work = _Work(algorithm=federated, received=received, data=data, local=local, states=states)
        replies[name] = _train_one(site, request, work, seed=settings.seed)
    return TrainReply(site=site.name, request_id=request.request_id, networks=replies)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One network of a request, with all that its training needs."""

    algorithm: FederatedAlgorithm
    received: Mapping[str, Tensor]
    data: ExamTensors
    local: LocalSettings
    states: SiteState | None


def _states(site: Site, request: TrainRequest, federated: FederatedAlgorithm) -> SiteState | None:
    """Where the site keeps what it needs from round to round, if it does."""
    if not federated.keeps_state:
        return None
    if not 0 <= request.state_round < request.server_round:
        raise UpdateError(
            f"Expected state of a round before {request.server_round}, got {request.state_round}"
        )
    return SiteState(site.folder, plan_hash=request.plan_hash, run=request.run)


def _train_one(site: Site, request: TrainRequest, work: _Work, *, seed: int) -> NetworkReply:
    name, federated, local = work.local.spec.name, work.algorithm, work.local
    state = work.states.read(name, request.state_round) if work.states is not None else {}
    counts = None
    if site.policy.permits("score_histograms"):
        histograms = _histograms(
            site, federated.scored_weights(work.received, state, local), work.data, local
        )
        counts = histograms.counts if histograms is not None else None
    if request.server_round > local.rounds:
        return NetworkReply(update=None, num_examples=0, loss=float("nan"), histograms=counts)
    seed = derive_seed(seed, site.name, local.spec.identity, request.server_round)
    trained, after = federated.local_update(
        work.received, state, work.data, local, request.server_round, seed
    )
    if work.states is not None:
        work.states.write(name, request.server_round, after, keep=request.state_round)
    return NetworkReply(
        update=trained.update.numpy(),
        num_examples=trained.num_examples,
        loss=trained.loss,
        histograms=counts,
        extra={key: values.numpy() for key, values in trained.extra.items()},
    )


def _histograms(
    site: Site, weights: Tensor, data: ExamTensors, local: LocalSettings
) -> ScoreHistograms | None:
    """Scores of the received weights on the validation fold, unless too few patients stand behind them."""
    if local.spec.target.kind == "permutation":
        return None
    exams = validation_exams(data, local.spec)
    if len(data.patient[exams].unique()) < site.policy.minimum_cohort:
        return None
    probabilities = score(weights, data, exams, local)
    classes = local.spec.target.classes
    expected = probabilities @ torch.linspace(0, 1, classes)  # for two classes, the probability of class 1
    return ScoreHistograms.from_scores(
        expected.clamp(0, 1).numpy(), labels(data, local.spec)[exams].numpy(), classes=classes
    )


def _plans(site: Site) -> Path:
    return site.folder / "plans"


def _agreed_settings(site: Site, request: TrainRequest) -> Settings:
    if re.fullmatch(r"[0-9a-f]{64}", request.plan_hash) is None:  # it becomes a file's name
        raise PolicyError("Expected a plan's hash in hex, got something else")
    try:
        plan = (_plans(site) / f"{request.plan_hash}.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise PolicyError("Expected a plan that this site has agreed to, got another") from None
    return _settings(plan, campaign=request.campaign)


def _settings(plan: str, *, campaign: str) -> Settings:
    try:
        return Settings.model_validate({**json.loads(plan), "name": campaign})
    except (ValidationError, ValueError, TypeError) as error:
        raise DataError(f"Expected a plan that this version understands: {error}") from None
