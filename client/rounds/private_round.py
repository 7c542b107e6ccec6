"""A round of a campaign with differential privacy: prepared from what is here, booked, drawn, and only then sent.

::

    request -> prepare: checked, frozen encoder, cached features    (nothing random, nothing leaves)
            -> begin:   the round is claimed                          (client.rounds.booking)
            -> draw:    debited, on disk; only then is there entropy  (client.rounds.booking)
            -> one clipped, noised sum                                (common.privacy.mechanism.patient_step)
            -> allow-list -> reply

Method ``probe`` trains all heads as one vector; every other method trains its networks whole, step by step
(:mod:`client.rounds.private_network`). With ``mechanism = "none"`` the same sum is taken without clipping,
sampling and noise, and booked as unbounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from client.consent import answered_rounds
from client.data.site_store import site_store
from client.data.store import Store, eligible, training_exams
from client.rounds import allow_list, features, memory, unprotected
from client.rounds.booking import Booking, begin
from client.rounds.requests import checked
from client.site.site import Site
from client.state.weights_cache import WeightsCache
from common.aggregation.algorithms import algorithm
from common.errors import DataError, UpdateError
from common.messages import MissingWeights, NetworkReply, TrainReply, TrainRequest
from common.methods.rounds import stage_rounds
from common.methods.stages import networks
from common.networks.spec import NetworkSpec
from common.privacy.mechanism.heads import Heads, HeadShape, patient_rows
from common.privacy.mechanism.patient_step import clipped_sum, private_gradient
from common.privacy.planning.private_steps import class_weights
from common.settings import Settings

Updates: TypeAlias = Mapping[str, Float32[np.ndarray, " _"] | None]
"""Of each network by name; ``None``: it is not trained in this round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A round that is ready to be drawn.

    Attributes:
        planned: the networks that were asked for, by name.
        heads: with what they read, of all eligible patients; of networks that train whole: none.
        order: the heads' networks, in the order of their common vector.
        patients: identifiers of all who are eligible.
    """

    planned: Mapping[str, NetworkSpec]
    heads: Sequence[Heads]
    order: Sequence[str]
    patients: Sequence[str]


_prepared: dict[tuple[Path, str], tuple[Store, object, Work]] = {}
"""Site and plan -> the store and the encoders that were read, and what was made of them."""


def train(
    site: Site, request: TrainRequest, settings: Settings, *, device: torch.device, asker: str | None = None
) -> TrainReply | MissingWeights:
    """A round's reply; each release of it is booked before it is drawn.

    Args:
        site: the site.
        request: what to train, from which weights.
        settings: of the campaign, as the site approved it.
        device: where to compute.
        asker: who may ask for the round again (:func:`client.consent.answered_rounds.check`).

    Returns:
        The reply, or which frozen weights are not in the site's cache.

    Raises:
        PolicyError: if the round is none of the plan's, or the policy permits no private release.
        UpdateError: as :func:`prepare`.
        UnapprovedError: if another request has asked for the round.
        BudgetError: if the round is beyond the policy's cap, or beyond what was approved; nothing is drawn.
        ConfigurationError: if a network cannot be trained so; nothing is drawn.
        StorageError: if a release cannot be booked; it is not drawn.
        MemoryLimitError: if the device has too little memory and the policy has no other way.
    """
    work = prepare(site, request, settings, device=device)
    if isinstance(work, MissingWeights):
        return work
    booking = None
    if settings.private:
        booking = begin(site, request, settings, work.patients, asker=asker)
    else:
        answered_rounds.claim_at(site, request, asker=asker)
        unprotected.book(site, request, frozenset(work.patients))
    if settings.method == "probe":
        updates = _step(request, settings, work, booking)
    else:
        from client.rounds import private_network  # noqa: PLC0415  Opacus: only where it is needed

        assert booking is not None, "settings permit whole networks with noise alone"
        updates = private_network.train(site, request, settings, work.planned, booking, device=device)
    return allow_list.checked(_reply(site, request, updates), request)


def prepare(
    site: Site, request: TrainRequest, settings: Settings, *, device: torch.device
) -> Work | MissingWeights:
    """Check a request and read what it needs; nothing is drawn and nothing booked.

    Where the device's memory runs out, as the policy says (:func:`client.rounds.memory.within`).

    Returns:
        What is to be done, or which frozen weights are not in the site's cache.

    Raises:
        PolicyError: if the round is none of the plan's.
        UpdateError: if a network is not in the plan, or a head of it is missing, or weights are not what the plan
            says.
        MemoryLimitError: if the device has too little memory and the policy has no other way.
    """

    def on(where: torch.device, share: int) -> Work | MissingWeights:
        return _work(site, request, settings, device=where, share=share)

    return memory.within(site, device, on)


def _work(
    site: Site, request: TrainRequest, settings: Settings, *, device: torch.device, share: int
) -> Work | MissingWeights:
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
        return Work(planned=planned, heads=(), order=(), patients=eligible(store))
    frozen = {name: {part: cache.get(ref) for part, ref in parts.items()} for name, parts in refs.items()}
    read = features.features(
        site, list(planned.values()), settings, frozen, device=device, share=share, store=store
    )
    work = ready(store, planned, settings, read)
    _prepared[key] = (store, refs, work)
    return work


def ready(
    store: Store,
    planned: Mapping[str, NetworkSpec],
    settings: Settings,
    read: Mapping[str, Tensor],
) -> Work:
    """What heads learn from: every eligible patient's features and grades.

    Args:
        store: of the site.
        planned: the heads' networks, by name.
        settings: of the campaign.
        read: network's name -> what it reads of the store's exams (:func:`client.rounds.features.features`).

    Raises:
        DataError: without differential privacy, if the site has no training exam.
    """
    privacy = settings.privacy
    assert privacy is not None
    patients = eligible(store)
    if not patients and not settings.private:
        raise DataError("Expected training patients, got none: look at the manifest's column split")
    index = {patient: number for number, patient in enumerate(patients)}
    exams = training_exams(store).sort_values(["patient_id", "exam_id"])
    chosen = torch.from_numpy(exams.index.to_numpy(copy=True))
    owner = torch.tensor([index[str(patient)] for patient in exams["patient_id"]], dtype=torch.int64)
    by_shape: dict[HeadShape, list[NetworkSpec]] = {}
    for name, spec in planned.items():
        by_shape.setdefault(head_shape(spec, read[name].shape[-1]), []).append(spec)
    heads = [
        Heads(
            shape=shape,
            rows=patient_rows(
                torch.stack([read[spec.name][chosen] for spec in specs]),
                torch.stack([store.tensors.grades[spec.target.measurement][chosen].long() for spec in specs]),
                owner,
                patients=len(patients),
                images=privacy.images,
            ),
            class_weights=torch.tensor([class_weights(spec, settings) for spec in specs]),
        )
        for shape, specs in by_shape.items()
    ]
    order = [spec.name for specs in by_shape.values() for spec in specs]
    return Work(planned=planned, heads=heads, order=order, patients=patients)


def head_shape(spec: NetworkSpec, read: int) -> HeadShape:
    """Of a head that reads so many numbers of an exam (:func:`client.rounds.features.features`)."""
    assert spec.probe is not None, "method probe"
    if spec.probe.norms is None:
        return HeadShape(features=read, classes=spec.target.classes)
    assert spec.probe.neck is not None, "settings permit norms with a neck alone"
    return HeadShape(features=spec.probe.neck, classes=spec.target.classes, moves=read // spec.probe.neck - 1)


def vector_of(request: TrainRequest, work: Work) -> Float32[Tensor, " size"]:
    """The heads' weights as one vector."""
    return torch.cat([torch.from_numpy(np.array(request.weights[name])) for name in work.order])


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


def _step(request: TrainRequest, settings: Settings, work: Work, booking: Booking | None) -> Updates:
    """Each head's step down the gradient of all; in the round that only scores, which reads nothing, none."""
    privacy = settings.privacy
    assert privacy is not None, "a campaign without [privacy] trains elsewhere"
    if request.server_round > stage_rounds(work.planned.values(), settings):
        return dict.fromkeys(work.planned)
    weights = vector_of(request, work)
    if booking is None:
        total = clipped_sum(weights, work.heads, max_norm=float("inf")).total
        gradient = (total / privacy.patients).float()
    else:
        draw = booking.draw()
        gradient = private_gradient(
            weights, taking_part(work, draw.patients), booking.step, entropy=draw.entropy
        ).gradient
    sizes = [head.shape.size for head in work.heads for _ in head.class_weights]
    parts = (gradient * -settings.probe.learning_rate).split(sizes)
    by_name = dict(zip(work.order, parts, strict=True))
    return {name: by_name[name].numpy() for name in work.planned}


def _reply(site: Site, request: TrainRequest, updates: Updates) -> TrainReply:
    """Nothing but the updates says anything about patients."""
    return TrainReply(
        site=site.name,
        request_id=request.request_id,
        networks={
            name: NetworkReply(update=update, num_examples=1, loss=float("nan"), histograms=None)
            for name, update in updates.items()
        },
    )
