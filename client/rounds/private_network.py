"""A round of whole networks with differential privacy: steps that are booked one by one, each before it is drawn.

Every network is a release of its own, step by step: sixty networks cost sixty times the steps of one. That is why
method ``probe`` exists (:mod:`client.rounds.private_round`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from client.data.site_store import site_store
from client.ledger import ledger
from client.rounds.booking import PRIVATE_STEP, booking
from client.site.site import Site
from client.state.weights_cache import WeightsCache
from common.messages import NetworkReply, TrainReply, TrainRequest
from common.networks.spec import NetworkSpec
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.mechanism.network_training import private_network_steps
from common.privacy.mechanism.patient_step import StepSettings
from common.privacy.settings import PrivacySettings
from common.settings import Settings
from common.training.local_settings import LocalSettings, local_settings


def train(
    site: Site,
    request: TrainRequest,
    settings: Settings,
    planned: Mapping[str, NetworkSpec],
    *,
    patients: Sequence[str],
    device: torch.device,
) -> TrainReply:
    """Train networks for one round; nothing leaves unless all of its steps could be booked.

    Args:
        site: the site.
        request: what to train, from which weights; checked, and its frozen weights in the site's cache.
        settings: of the campaign, as the site approved it; with noise.
        planned: the networks that were asked for, by name.
        patients: identifiers of all who are eligible.
        device: where to compute.

    Raises:
        BudgetError: if the round is beyond the policy's cap, or beyond what was approved: asked before it, for all
            of it.
        PolicyError: if the policy permits no private release.
        ConfigurationError: if a network cannot be trained so.
        StorageError: if a step cannot be booked.
    """
    privacy = settings.privacy
    assert privacy is not None, "a campaign without [privacy] trains elsewhere"
    cache = WeightsCache(site.folder, plan_hash=request.plan_hash, run=request.run)
    locals_ = {
        name: local_settings(
            spec,
            settings,
            device=device,
            frozen={part: cache.get(ref) for part, ref in request.frozen.get(name, {}).items()},
        )
        for name, spec in planned.items()
    }
    trained = {name: local for name, local in locals_.items() if request.server_round <= local.rounds}
    round_ = _Round(site, request, settings, privacy, patients)
    if trained:
        round_.check(sum(local.training.local_steps for local in trained.values()))
    return TrainReply(
        site=site.name,
        request_id=request.request_id,
        networks={
            name: NetworkReply(
                update=round_.update(local) if name in trained else None,
                num_examples=1,
                loss=float("nan"),
                histograms=None,
            )
            for name, local in locals_.items()
        },
    )


class _Round:
    """One round of a site, with the patients whom it is debited to."""

    def __init__(
        self,
        site: Site,
        request: TrainRequest,
        settings: Settings,
        privacy: PrivacySettings,
        patients: Sequence[str],
    ) -> None:
        self._site, self._request, self._settings, self._privacy = site, request, settings, privacy
        self._patients = patients
        store = site_store(site, settings)
        self._data = store.tensors
        owners = zip(map(str, store.exams["patient_id"]), self._data.patient.tolist(), strict=True)
        self._numbers = dict(owners)
        self._booking = partial(booking, request, privacy, kind=PRIVATE_STEP)

    def check(self, steps: int) -> None:
        """Whether this many steps are permitted, so that nothing is spent on half a round."""
        ledger.check(self._site, self._booking(steps=steps), self._patients)

    def update(self, local: LocalSettings) -> np.ndarray:
        """One network's."""
        privacy = self._privacy
        step = StepSettings(
            max_grad_norm=privacy.max_grad_norm,
            noise_multiplier=privacy.steps(1).noise_multiplier,
            sample_rate=privacy.sample_rate,
            patients=privacy.patients,
        )
        trained = private_network_steps(
            torch.from_numpy(np.array(self._request.weights[local.spec.name])),
            self._data,
            local,
            step,
            images=privacy.images,
            class_weights=class_weights(local.spec, self._settings),
            server_round=self._request.server_round,
            seed=self._settings.seed,
            reserve=self._reserve,
            entropy_of=partial(os.urandom, 32),
        )
        return trained.update.numpy()

    def _reserve(self, steps: PrivateSteps) -> frozenset[int]:
        reserved = ledger.reserve(self._site, self._booking(steps=steps.count), self._patients)
        return frozenset(self._numbers[name] for name in reserved.patients)


def class_weights(spec: NetworkSpec, settings: Settings) -> Tensor:
    """The plan's, of networks that tell grades apart; others weigh their classes alike."""
    assert settings.privacy is not None
    given = settings.privacy.class_weights.get(spec.target.measurement)
    if given is None or spec.target.kind != "nominal":
        return torch.ones(spec.target.classes)
    return torch.tensor(given)
