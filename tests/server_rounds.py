"""Factories for tests of the centre: settings, networks and replies of a tiny campaign."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.aggregation.algorithms import algorithm
from common.messages import NetworkReply, TrainReply, TrainRequest
from common.methods import groups
from common.methods.stages import networks
from common.settings import Settings
from server.rounds import weights
from server.rounds.journal import Journal
from server.rounds.rounds import GroupRounds
from server.rounds.spool import Spool
from tests.site_folders import make_settings

SITES = ("north", "south", "west")


def settings(text: str = "") -> Settings:
    return make_settings(
        measurements=("hypertrophy",),
        grades=2,
        text=f'fusion = "joint"\nreplicas = 1\nmodels = 1\n[training]\nlocal_steps = 2\nbatch_size = 4\n{text}',
    )


def group_rounds(folder: Path, configuration: Settings) -> GroupRounds:
    specs = list(networks(configuration).values())
    layouts = groups.layouts(specs, configuration)
    frozen = groups.frozen_bytes(specs, configuration)
    (group,) = groups.pack("scoring", specs, layouts, group_bytes=10**9, frozen_bytes=frozen)
    return GroupRounds(
        group,
        settings=configuration,
        campaign="test",
        sites=lambda: SITES,
        start=weights.StartWeights(configuration, folder / "networks"),
        algorithm=algorithm(configuration.federation),
        journal=Journal(folder / "journal", group.name),
        spool=Spool(folder / "spool", group.name),
    )


def reply(request: TrainRequest, site: str, *, auc: float = 0.5, scale: float = 1.0) -> TrainReply:
    """A well-formed reply whose update depends on site and round only."""
    rng = np.random.default_rng([SITES.index(site), request.server_round])
    histograms = np.zeros((2, 256), dtype=np.int64)
    right = round(100 * auc)
    histograms[1, 200], histograms[1, 20], histograms[0, 100] = right, 100 - right, 10
    return TrainReply(
        site=site,
        request_id=request.request_id,
        networks={
            name: NetworkReply(
                update=(scale * rng.normal(size=values.size)).astype(np.float32),
                num_examples=10 * (1 + SITES.index(site)),
                loss=0.5,
                histograms=histograms,
            )
            for name, values in request.weights.items()
        },
    )
