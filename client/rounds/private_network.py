"""A round of whole networks with differential privacy: steps that are booked one by one, each before it is drawn.

Every network is a release of its own, step by step: sixty networks cost sixty times the steps of one. That is why
method ``probe`` exists (:mod:`client.rounds.private_round`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32

from client.data.site_store import site_store
from client.rounds import memory
from client.rounds.booking import Booking, Draw
from client.site.site import Site
from client.state.weights_cache import WeightsCache
from common.messages import TrainRequest
from common.networks.spec import NetworkSpec
from common.privacy.mechanism.network_training import PrivateTraining
from common.privacy.planning.private_steps import class_weights
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.local_settings import LocalSettings, local_settings


def train(
    site: Site,
    request: TrainRequest,
    settings: Settings,
    planned: Mapping[str, NetworkSpec],
    booking: Booking,
    *,
    device: torch.device,
) -> dict[str, Float32[np.ndarray, " _"] | None]:
    """Train networks for one round; nothing leaves unless all of its steps could be booked.

    Args:
        site: the site.
        request: what to train, from which weights; checked, and its frozen weights in the site's cache.
        settings: of the campaign, as the site approved it; with noise.
        planned: the networks that were asked for, by name.
        booking: of the round, which is claimed.
        device: where to compute; where its memory runs out, as the policy says (:func:`client.rounds.memory.within`).

    Returns:
        Each network's update; ``None`` once its rounds are over.

    Raises:
        BudgetError: if the round is beyond the policy's cap, or beyond what was approved: asked before it, for all
            of it.
        PolicyError: if the policy permits no private release.
        ConfigurationError: if a network cannot be trained so.
        StorageError: if a step cannot be booked.
        MemoryLimitError: if the device has too little memory and the policy has no other way; what was drawn until
            then stays booked.
    """
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
    store = site_store(site, settings)
    owners = zip(map(str, store.exams["patient_id"]), store.tensors.patient.tolist(), strict=True)
    numbers = dict(owners)
    if trained:
        booking.check(sum(local.training.local_steps for local in trained.values()))
    updates: dict[str, Float32[np.ndarray, " _"] | None] = {}
    drawn: list[Draw] = []

    def go_on(where: torch.device, share: int) -> dict[str, Float32[np.ndarray, " _"] | None]:
        for name, local in trained.items():
            if name not in updates:
                moved = replace(local, device=where)
                updates[name] = _update(
                    request, settings, moved, store.tensors, booking, drawn, numbers, share=share
                )
                drawn.clear()
        return {name: updates.get(name) for name in locals_}

    return memory.within(site, device, go_on)


def _update(
    request: TrainRequest,
    settings: Settings,
    local: LocalSettings,
    data: ExamTensors,
    booking: Booking,
    drawn: list[Draw],
    numbers: Mapping[str, int],
    *,
    share: int,
) -> Float32[np.ndarray, " _"]:
    """One network's, of a round's steps, each booked before it is drawn.

    What is drawn is added to ``drawn``. A try for which memory ran out has left some there: the next one takes the
    same steps with them, from the first on, so that they are the releases that were booked, and only one try leaves.
    """
    training = PrivateTraining(
        torch.from_numpy(np.array(request.weights[local.spec.name])),
        data,
        local,
        booking.step,
        images=booking.release.images,
        class_weights=torch.tensor(class_weights(local.spec, settings)),
        server_round=request.server_round,
        seed=settings.seed,
        share=share,
    )
    for number in range(local.training.local_steps):
        if number == len(drawn):
            drawn.append(booking.draw())
        draw = drawn[number]
        training.step(frozenset(numbers[name] for name in draw.patients), entropy=draw.entropy)
    update: Float32[np.ndarray, " _"] = training.update().update.numpy()
    return update
