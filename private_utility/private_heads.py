"""Heads trained with privacy, over and over, on features that are computed once.

A campaign of linear probes is 60 sums over the same features, so a study of many budgets need not read a picture
twice. What a site learns from comes from the site's own code (:mod:`client.rounds.features`,
:mod:`client.rounds.private_round`), start weights and decisions from the centre's; only messages, ledgers and
files are left out.

==================================  ==================================================================================
release                             a round's mean gradient over the sites
==================================  ==================================================================================
no epsilon                          exact: no clipping, no noise
own noise                           the mean of :func:`~common.privacy.mechanism.patient_step.private_gradient` at
each site secure aggregation                  clipped sums of all sites, with each site's share of the noise in
whole numbers,
                                    drawn by :class:`~common.privacy.mechanism.private_sum.PrivateSum`
==================================  ==================================================================================

A patient's gradient is not rounded to the grid of the secure sum: at random, that would move a number of the sum by a
third of a grid step times the root of the number of patients, where the noise has thousands of steps.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from client.data.site_store import site_store
from client.data.store import Store
from client.rounds import features, private_round
from client.site.site import Site
from common.ensemble.committee import decided
from common.exam import MISSING
from common.imaging.prepare import picture
from common.methods.stages import Output, networks
from common.networks import build
from common.networks.spec import NetworkSpec
from common.privacy.mechanism import gaussian_release
from common.privacy.mechanism.heads import Heads, logits
from common.privacy.mechanism.patient_step import StepSettings, clipped_sum, private_gradient
from common.privacy.mechanism.private_sum import PrivateSum
from common.settings import Settings
from server.rounds.weights import StartWeights
from simulation.cohorts.cohort import Cohort
from simulation.evaluation.predict import references
from simulation.evaluation.score import score_columns

CPU = torch.device("cpu")
COLLUDERS = 1
"""Sites that may tell the centre their share of the noise."""
THRESHOLD = 0.5
BATCH = 256
"""Held-out exams that a network is asked at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """How the sum of a round leaves.

    Attributes:
        noise_multiplier: of each round; ``None``: no clipping, no noise.
        max_grad_norm: C.
        secure: whether noise is added once for all sites, in shares.
        learning_rate: of a round's step.
        rounds: how many.
    """

    noise_multiplier: float | None
    max_grad_norm: float
    secure: bool
    learning_rate: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A cohort as its heads see it.

    Attributes:
        settings: of the campaign, with the encoders' hash.
        order: the heads' networks in the order of their common vector.
        sites: each site's heads with its training patients, in the order of their identifiers.
        start: weights of all heads.
        tested: network's name -> what is read of every held-out exam, from plain pictures.
        pictures: image -> those of the held-out exams, ready for a network; for networks whose norms move.
        frozen: network's name -> its frozen parts.
        exams: the held-out exams: ``exam_id, patient_id, site, device, trained_site`` and
            what is known of them (:func:`simulation.evaluation.predict.references`).
    """

    settings: Settings
    order: tuple[NetworkSpec, ...]
    sites: tuple[tuple[Heads, ...], ...]
    start: Float32[Tensor, " size"]
    tested: Mapping[str, Float32[Tensor, "exams features"]]
    pictures: Mapping[str, Tensor]
    frozen: Mapping[str, features.Frozen]
    exams: pd.DataFrame

    def first(self, patients: int) -> Campaign:
        """The same with only the first N training patients of each site."""
        chosen = torch.arange(patients)
        sites = tuple(tuple(replace(some, rows=some.rows.of(chosen)) for some in site) for site in self.sites)
        return replace(self, sites=sites)

    def alone(self, site: int) -> Campaign:
        """The same with one site that trains; tested everywhere."""
        return replace(self, sites=(self.sites[site],))


def opened(cohort: Cohort, settings: Settings) -> Campaign:
    """Read a cohort: pictures and features, which the sites keep.

    Args:
        cohort: whose sites all train.
        settings: of method ``probe``, with the encoders' hash.

    Raises:
        SynofedError: if a site cannot be read, or the encoders do not fit.
    """
    planned = networks(settings)
    weights = StartWeights(settings, Path("no network is trained already"))
    frozen = {
        name: {part: torch.from_numpy(np.array(flat)) for part, flat in weights.frozen(spec).items()}
        for name, spec in planned.items()
    }
    plain = settings.model_copy(update={"probe": settings.probe.model_copy(update={"views": 1})})
    unchanged = [spec.model_copy(update={"probe": _unaugmented(spec)}) for spec in planned.values()]
    sites, order, tables = [], [], []
    tested: dict[str, list[Tensor]] = {name: [] for name in planned}
    pictures: dict[str, list[Tensor]] = {name: [] for name in settings.images}
    for member in cohort.sites:
        site = Site.open(member.folder)
        store = site_store(site, settings)
        read = features.features(site, list(planned.values()), settings, frozen, device=CPU, store=store)
        work = private_round.ready(store, planned, settings, read)
        sites.append(tuple(work.heads))
        order = [planned[name] for name in work.order]
        held_out = torch.nonzero(store.tensors.fold == MISSING).flatten()
        seen = features.features(site, unchanged, plain, frozen, device=CPU, store=store)
        for name, found in seen.items():
            tested[name].append(found[held_out, 0])
        for name, stored in store.tensors.images.items():
            ready = picture(stored[held_out], settings.images[name], image_px=settings.network.image_px)
            pictures[name].append(ready)
        tables.append(_held_out(member.name, store, member.folder, held_out.numpy(), settings))
    return Campaign(
        settings=settings,
        order=tuple(order),
        sites=tuple(sites),
        start=torch.cat([torch.from_numpy(np.array(weights.start(spec))) for spec in order]),
        tested={name: torch.cat(parts) for name, parts in tested.items()},
        pictures={name: torch.cat(parts) for name, parts in pictures.items()},
        frozen=frozen,
        exams=pd.concat(tables, ignore_index=True),
    )


def train(campaign: Campaign, release: Release) -> Float32[Tensor, " size"]:
    """All heads' weights after a campaign; noise is fresh from the operating system each time."""
    weights = campaign.start.clone()
    shared = _shared(campaign, release) if release.secure and release.noise_multiplier is not None else None
    for _ in range(release.rounds):
        if shared is not None:
            gradient = _secure(weights, campaign.sites, shared)
        else:
            each = [_own(weights, heads, release) for heads in campaign.sites]
            gradient = torch.stack(each).mean(0)
        weights = weights - release.learning_rate * gradient
    return weights


def _own(
    weights: Float32[Tensor, " size"], heads: Sequence[Heads], release: Release
) -> Float32[Tensor, " size"]:
    """What a site sends in the clear, less the learning rate."""
    patients = heads[0].rows.patients
    if release.noise_multiplier is None:
        return (clipped_sum(weights, heads, max_norm=float("inf")).total / patients).float()
    step = StepSettings(
        max_grad_norm=release.max_grad_norm,
        noise_multiplier=release.noise_multiplier,
        sample_rate=1,
        patients=patients,
    )
    return private_gradient(weights, heads, step, entropy=os.urandom(32)).gradient


def _shared(campaign: Campaign, release: Release) -> PrivateSum:
    assert release.noise_multiplier is not None
    return PrivateSum(
        max_grad_norm=release.max_grad_norm,
        noise_multiplier=release.noise_multiplier,
        patients=campaign.sites[0][0].rows.patients,
        sites=len(campaign.sites),
        survivors=len(campaign.sites),
        colluders=COLLUDERS,
        length=len(campaign.start),
    )


def _secure(
    weights: Float32[Tensor, " size"], sites: Sequence[Sequence[Heads]], shared: PrivateSum
) -> Float32[Tensor, " size"]:
    """What the centre opens, less the learning rate."""
    longest = gaussian_release.clipping_norm(shared.max_grad_norm)
    total: Float64[np.ndarray, " size"] = np.zeros(len(weights))
    for heads in sites:
        noise = shared.vector((), noise="share", entropy=os.urandom(32))
        total += clipped_sum(weights, heads, max_norm=longest).total.numpy() + noise * shared.grid
    return torch.from_numpy((total / (shared.patients * len(sites))).astype(np.float32))


def answers(campaign: Campaign, weights: Float32[Tensor, " size"]) -> pd.DataFrame:
    """The held-out exams with what the ensemble of these heads decides: ``decision_<m>`` and others."""
    outputs, start = [], 0
    for spec in campaign.order:
        read = campaign.tested[spec.name]
        shape = private_round.head_shape(spec, read.shape[1])
        own = weights[start : start + shape.size]
        found = _asked(campaign, spec, own) if shape.moves else logits(own, shape, read[None])[0]
        probabilities = found.softmax(dim=1).numpy()
        outputs.append(Output(spec=spec, probabilities=probabilities, threshold=THRESHOLD))
        start += shape.size
    return campaign.exams.assign(**score_columns(decided(outputs, campaign.settings)))


@torch.inference_mode()
def _asked(
    campaign: Campaign, spec: NetworkSpec, weights: Float32[Tensor, " size"]
) -> Float32[Tensor, "exams classes"]:
    """Logits of a network whose norms have moved."""
    network = build.assembled(spec, campaign.settings.network, weights, campaign.frozen[spec.name])
    batches = zip(*(campaign.pictures[image].split(BATCH) for image in spec.images), strict=True)
    return torch.cat([network(list(pictures)) for pictures in batches])


def _unaugmented(spec: NetworkSpec) -> object:
    assert spec.probe is not None, "method probe"
    return spec.probe.model_copy(update={"augmentation": 0})


def _held_out(name: str, store: Store, folder: Path, chosen: np.ndarray, settings: Settings) -> pd.DataFrame:
    exams = store.exams.iloc[chosen].reset_index(drop=True)
    table = exams[["exam_id", "patient_id", "device"]].assign(site=name, trained_site=True)
    return table.assign(**references(store, folder, exams["exam_id"], chosen, settings.measurements))


def noise_of(epsilon: float, *, delta: float, rounds: int) -> float:
    """The multiplier whose rounds over everybody cost a patient epsilon."""
    from common.privacy.accounting.accounting import noise_multiplier  # noqa: PLC0415  scipy

    return math.ceil(noise_multiplier(epsilon, sample_rate=1, count=rounds, delta=delta) * 1e4) / 1e4
