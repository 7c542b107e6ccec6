"""A round of a campaign with differential privacy: prepared from what is here, booked, drawn, and only then sent.

::

    request -> prepare: checked, frozen encoder, cached features   (nothing random, nothing leaves)
            -> reserve: debited, on disk, to every eligible patient
                        who has enough left (client.ledger.ledger); nobody else takes part
            -> draw:    one clipped, noised sum with fresh entropy  (common.privacy.mechanism.patient_step)
            -> allow-list -> reply

Method ``probe`` trains all heads as one vector; every other method trains its networks whole, step by step
(:mod:`client.rounds.private_network`). With ``mechanism = "none"`` the same sum is taken without clipping,
sampling and noise, and booked as unbounded.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from client.data.site_store import site_store
from client.data.store import Store, eligible
from client.ledger import ledger
from client.rounds import allow_list, features
from client.rounds.booking import PRIVATE_SUM, booking
from client.rounds.requests import checked
from client.site.site import Site
from client.state.weights_cache import WeightsCache
from common.aggregation.algorithms import algorithm
from common.errors import DataError, UpdateError
from common.exam import MISSING
from common.messages import MissingWeights, NetworkReply, TrainReply, TrainRequest
from common.methods.stages import networks
from common.networks.spec import NetworkSpec
from common.privacy.mechanism.heads import Heads, HeadShape, patient_rows
from common.privacy.mechanism.patient_step import StepSettings, clipped_sum, private_gradient
from common.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A round that is ready to be drawn.

    Attributes:
        planned: the networks that were asked for, by name.
        device: where to compute.
        heads: with what they read, of all eligible patients; of networks that train whole: none.
        order: the heads' networks, in the order of their common vector.
        patients: identifiers of all who are eligible.
    """

    planned: Mapping[str, NetworkSpec]
    device: torch.device
    heads: Sequence[Heads]
    order: Sequence[str]
    patients: Sequence[str]


_prepared: dict[tuple[Path, str], tuple[Store, object, Work]] = {}
"""Site and plan -> the store and the encoders that were read, and what was made of them."""


def prepare(
    site: Site, request: TrainRequest, settings: Settings, *, device: torch.device
) -> Work | MissingWeights:
    """Check a request and read what it needs; nothing is drawn and nothing booked.

    Returns:
        What is to be done, or which frozen weights are not in the site's cache.

    Raises:
        PolicyError: if the round is none of the plan's.
        UpdateError: if a network is not in the plan, or a head of it is missing, or weights are not what the plan
            says.
    """
    planned = checked(request, settings, algorithm(settings.federation), device=device)
    _check_all_heads(planned, settings)
    cache = WeightsCache(site.folder, plan_hash=request.plan_hash, run=request.run)
    cache.add(request.attached)
    refs = {name: dict(parts) for name, parts in request.frozen.items()}
    missing = cache.missing(ref for parts in refs.values() for ref in parts.values())
    if missing:
        return MissingWeights(site=site.name, request_id=request.request_id, hashes=missing)
    store = site_store(site, settings)
    key = (site.folder.resolve(), request.plan_hash)
    known = _prepared.get(key)
    if known is not None and known[0] is store and known[1] == refs:
        return known[2]
    if settings.method != "probe":
        return Work(planned=planned, device=device, heads=(), order=(), patients=eligible(store))
    frozen = {name: {part: cache.get(ref) for part, ref in parts.items()} for name, parts in refs.items()}
    read = features.features(site, list(planned.values()), settings, frozen, device=device, store=store)
    work = ready(store, planned, settings, read, device=device)
    _prepared[key] = (store, refs, work)
    return work


def ready(
    store: Store,
    planned: Mapping[str, NetworkSpec],
    settings: Settings,
    read: Mapping[str, Tensor],
    *,
    device: torch.device,
) -> Work:
    """What heads learn from: every eligible patient's features and grades.

    Args:
        store: of the site.
        planned: the heads' networks, by name.
        settings: of the campaign.
        read: network's name -> what it reads of the store's exams (:func:`client.rounds.features.features`).
        device: where to compute.

    Raises:
        DataError: without differential privacy, if the site has no training exam.
    """
    privacy = settings.privacy
    assert privacy is not None
    patients = eligible(store)
    if not patients and not settings.private:
        raise DataError("Expected training patients, got none: look at the manifest's column split")
    index = {patient: number for number, patient in enumerate(patients)}
    exams = store.exams[store.exams["fold"] != MISSING].sort_values(["patient_id", "exam_id"])
    chosen = torch.from_numpy(exams.index.to_numpy(copy=True))
    owner = torch.tensor([index[str(patient)] for patient in exams["patient_id"]], dtype=torch.int64)
    by_size: dict[int, list[NetworkSpec]] = {}
    for name, spec in planned.items():
        by_size.setdefault(read[name].shape[-1], []).append(spec)
    heads = [
        Heads(
            shape=HeadShape(features=size, classes=specs[0].target.classes),
            rows=patient_rows(
                torch.stack([read[spec.name][chosen] for spec in specs]),
                torch.stack([store.tensors.grades[spec.target.measurement][chosen].long() for spec in specs]),
                owner,
                patients=len(patients),
                images=privacy.images,
            ),
            class_weights=torch.tensor([_class_weights(spec, settings) for spec in specs]),
        )
        for size, specs in by_size.items()
    ]
    order = [spec.name for specs in by_size.values() for spec in specs]
    return Work(planned=planned, device=device, heads=heads, order=order, patients=patients)


def release(site: Site, request: TrainRequest, settings: Settings, work: Work) -> TrainReply:
    """Book one release (of whole networks: one per step) to all eligible patients, draw it, make the reply of it.

    Raises:
        BudgetError: if the release is beyond the policy's cap, or beyond what was approved; nothing is drawn.
        PolicyError: if the policy permits no private release.
        StorageError: if it cannot be booked; nothing is drawn.
    """
    privacy = settings.privacy
    assert privacy is not None, "a campaign without [privacy] trains elsewhere"
    if settings.method != "probe":
        from client.rounds import private_network  # noqa: PLC0415  Opacus: only where it is needed

        reply = private_network.train(
            site, request, settings, work.planned, patients=work.patients, device=work.device
        )
        return allow_list.checked(reply, request)
    if request.server_round > settings.federation.rounds:
        return allow_list.checked(_reply(site, request, dict.fromkeys(work.planned)), request)
    weights = torch.cat([torch.from_numpy(np.array(request.weights[name])) for name in work.order])
    if privacy.mechanism == "none":
        total = clipped_sum(weights, work.heads, max_norm=float("inf")).total
        gradient = (total / privacy.patients).float()
    else:
        reserved = ledger.reserve(site, booking(request, privacy, kind=PRIVATE_SUM), work.patients)
        step = StepSettings(
            max_grad_norm=privacy.max_grad_norm,
            noise_multiplier=privacy.steps(1).noise_multiplier,
            sample_rate=privacy.sample_rate,
            patients=privacy.patients,
        )
        gradient = private_gradient(
            weights, taking_part(work, reserved.patients), step, entropy=os.urandom(32)
        ).gradient
    return allow_list.checked(_reply(site, request, _updates(gradient, work, settings)), request)


def taking_part(work: Work, patients: Collection[str]) -> list[Heads]:
    """The heads with the data of those alone who take part; of nobody's, if nobody does."""
    if len(patients) == len(work.patients):
        return list(work.heads)
    chosen = torch.tensor([n for n, one in enumerate(work.patients) if one in patients], dtype=torch.int64)
    return [replace(some, rows=some.rows.of(chosen)) for some in work.heads]


def _check_all_heads(planned: Mapping[str, NetworkSpec], settings: Settings) -> None:
    """Whether a request names every head: asked one by one, they would be as many releases as there are heads.

    Raises:
        UpdateError: if one is missing.
    """
    missing = set(networks(settings)) - set(planned) if settings.method == "probe" else set()
    if missing:
        raise UpdateError(
            f"Expected all {len(planned) + len(missing)} heads of the plan, which are clipped as one, got "
            f"{len(planned)}"
        )


def _class_weights(spec: NetworkSpec, settings: Settings) -> tuple[float, ...]:
    assert settings.privacy is not None
    return settings.privacy.class_weights.get(spec.target.measurement, (1.0,) * spec.target.classes)


def _updates(
    gradient: Float32[Tensor, " size"], work: Work, settings: Settings
) -> dict[str, Float32[np.ndarray, " size"] | None]:
    """Each network's step down the gradient."""
    sizes = [head.shape.size for head in work.heads for _ in head.class_weights]
    parts = (gradient * -settings.probe.learning_rate).split(sizes)
    by_name = dict(zip(work.order, parts, strict=True))
    return {name: by_name[name].numpy() for name in work.planned}


def _reply(
    site: Site, request: TrainRequest, updates: Mapping[str, Float32[np.ndarray, " size"] | None]
) -> TrainReply:
    """Nothing but the updates says anything about patients."""
    return TrainReply(
        site=site.name,
        request_id=request.request_id,
        networks={
            name: NetworkReply(update=update, num_examples=1, loss=float("nan"), histograms=None)
            for name, update in updates.items()
        },
    )
