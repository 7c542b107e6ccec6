"""What frozen encoders give away: the same networks, all of their weights trained without privacy."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float32
from torch import Tensor

from client.data.site_store import site_store
from client.data.store import Store, eligible
from client.rounds.private_round import head_shape
from client.site.site import Site
from common.ensemble.committee import decided
from common.exam import MISSING
from common.machine import pretrained
from common.methods.stages import Output
from common.networks import build
from common.networks.spec import NetworkSpec
from common.settings import Settings
from common.training.data import ExamTensors
from common.training.local import score, train_network
from common.training.local_settings import LocalSettings, local_settings
from common.training.seeds import derive_seed
from private_utility.private_heads import THRESHOLD, Campaign
from simulation.cohorts.cohort import Cohort
from simulation.evaluation.score import score_columns
from simulation.runs.pretrain import pooled

LEARNING_RATE = 1e-3
LOCAL_STEPS = 50


def answers(
    campaign: Campaign,
    cohort: Cohort,
    heads: Float32[Tensor, " size"],
    *,
    patients: int,
    rounds: int,
) -> pd.DataFrame:
    """The held-out exams with the decision of networks that were trained whole, all sites' exams together.

    They start as the encoders and their trained heads, and train as RATING's networks do.

    Args:
        campaign: the cohort as its heads see it.
        cohort: its folders.
        heads: weights of the campaign's heads, trained without privacy.
        patients: training patients per site, the first of each.
        rounds: of ``LOCAL_STEPS`` steps each.
    """
    settings = campaign.settings
    data = pooled([_first(site_store(Site.open(site.folder), settings), patients) for site in cohort.sites])
    tested = torch.nonzero(data.fold == MISSING).flatten()
    outputs, start = [], 0
    for spec in campaign.order:
        size = head_shape(spec, campaign.tested[spec.name].shape[1]).size
        local = _whole(spec, settings, rounds=rounds)
        weights = _start(spec, local, heads[start : start + size], settings)
        start += size
        for server_round in range(1, rounds + 1):
            seed = derive_seed(settings.seed, "tuned", spec.name, server_round)
            weights = weights + train_network(weights, {}, data, local, server_round, seed)[0].update
        found = score(weights, data, tested, local).numpy()
        outputs.append(Output(spec=spec, probabilities=found, threshold=THRESHOLD))
    return campaign.exams.assign(**score_columns(decided(outputs, settings)))


def _first(store: Store, patients: int) -> ExamTensors:
    """The exams of a site's first training patients and of those held out."""
    chosen = store.exams["patient_id"].astype(str).isin(eligible(store)[:patients])
    data = store.tensors
    exams = torch.nonzero((data.fold == MISSING) | torch.from_numpy(chosen.to_numpy(copy=True))).flatten()
    return ExamTensors(
        images={name: stored[exams] for name, stored in data.images.items()},
        grades={name: grades[exams] for name, grades in data.grades.items()},
        fold=data.fold[exams],
        patient=data.patient[exams],
    )


def _whole(spec: NetworkSpec, settings: Settings, *, rounds: int) -> LocalSettings:
    training = settings.training.model_copy(
        update={"learning_rate": LEARNING_RATE, "local_steps": LOCAL_STEPS, "sampling": "shuffled"}
    )
    thawed = spec.model_copy(update={"pieces": (), "training": training, "rounds": rounds})
    return local_settings(thawed, settings)


def _start(
    spec: NetworkSpec, local: LocalSettings, head: Float32[Tensor, " head"], settings: Settings
) -> Float32[Tensor, " size"]:
    parts = {piece.part: pretrained.part(spec, settings.network, piece.part) for piece in spec.frozen} | {
        "head": head
    }
    whole = build.layout(local.spec, local.network)
    weights = torch.zeros(whole.size)
    for part, values in parts.items():
        start = 0
        for place in whole.slices(part):
            weights[place] = values[start : start + place.stop - place.start]
            start += place.stop - place.start
    return weights
