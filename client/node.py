"""A site's answers: to a plan, and to a request to train. No Flower here, and nothing that knows of a simulation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from client import keys
from client.site import Site
from client.weights_cache import WeightsCache
from common.aggregation.algorithms import algorithm
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
    """Train one group of networks for one round; a pure function of the request and the site's data.

    Returns:
        The reply, or which frozen weights are not in the site's cache and have to come with the request.

    Raises:
        PolicyError: if the plan was never agreed to, or the policy has changed since.
        UpdateError: if a network is not in the plan or has another layout.
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
    histograms_may_leave = site.policy.permits_histograms
    replies: dict[str, NetworkReply] = {}
    for name, received in request.weights.items():
        spec = known[name]
        if request.layouts[name] != flat_network(spec, settings.network, device).layout.hash:
            raise UpdateError(f"Expected the layout of {name} as the plan has it, got another")
        weights = torch.from_numpy(np.array(received))
        frozen = {part: cache.get(ref) for part, ref in request.frozen.get(name, {}).items()}
        local = local_settings(spec, settings, device=device, frozen=frozen)
        histograms = _histograms(site, weights, data, local) if histograms_may_leave else None
        replies[name] = _train_one(site, request, weights, data, local, settings, histograms)
    return TrainReply(site=site.name, request_id=request.request_id, networks=replies)


def _train_one(
    site: Site,
    request: TrainRequest,
    weights: Tensor,
    data: ExamTensors,
    local: LocalSettings,
    settings: Settings,
    histograms: ScoreHistograms | None,
) -> NetworkReply:
    counts = histograms.counts if histograms is not None else None
    if request.server_round > local.rounds:
        return NetworkReply(update=None, num_examples=0, loss=float("nan"), histograms=counts)
    seed = derive_seed(settings.seed, site.name, local.spec.identity, request.server_round)
    trained, _ = algorithm(settings.federation).local_update(
        weights, {}, data, local, request.server_round, seed
    )
    return NetworkReply(
        update=trained.update.numpy(),
        num_examples=trained.num_examples,
        loss=trained.loss,
        histograms=counts,
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
