from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.consent import answered_rounds, campaigns
from client.rounds import requests
from client.site.site import Site
from client.state.decisions import Status
from common.aggregation.algorithms import algorithm
from common.errors import PolicyError, UnapprovedError
from common.messages import TrainRequest
from common.methods.rounds import network_rounds
from common.methods.stages import networks
from common.networks import build
from common.settings import Settings
from tests import asking
from tests.site_folders import make_settings

CPU = torch.device("cpu")
Asked = tuple[int, int, int]
"""Network of the plan, round, and the policy's maximum of the time."""


def plan(jigsaw: int, scoring: int) -> Settings:
    """Two stages: one network that solves puzzles, two that learn from it."""
    return make_settings(
        images=("gs",),
        measurements=("hypertrophy",),
        grades=3,
        text=f'models = 1\nreplicas = 1\npretraining = "jigsaw"\n[rating.jigsaw]\nimage = "gs"\nrounds = {jigsaw}\n'
        f"permutations = 2\n[federation]\nrounds = {scoring}\n",
    )


def request(settings: Settings, name: str, server_round: int, request_id: str) -> TrainRequest:
    layout = build.layout(networks(settings)[name], settings.network)
    return TrainRequest(
        campaign=settings.name,
        plan_hash=settings.plan_hash(),
        request_id=request_id,
        group="g",
        server_round=server_round,
        encoding="float32",
        weights={name: np.zeros(layout.size, dtype="<f4")},
        layouts={name: layout.hash},
    )


def permitted(folder: Path, maximum: int, asked: TrainRequest) -> bool:
    """What :func:`client.rounds.exchange.answer_train` asks before it trains, in its order."""
    toml = 'name = "north"\n' + asking.CAUTIOUS.replace("[policy]", "[policy]\nversion = 2")
    (folder / "site.toml").write_text(
        toml.replace("maximum_rounds = 20", f"maximum_rounds = {maximum}"), encoding="utf-8"
    )
    site = Site.open(folder)
    try:
        understood = campaigns.settings_of_approved(site, asked.plan_hash, name=asked.campaign)
        answered_rounds.check(folder, asked)
        requests.checked(asked, understood, algorithm(understood.federation), device=CPU)
        answered_rounds.claim(folder, asked)
    except (PolicyError, UnapprovedError):
        return False
    return True


@settings(max_examples=8, deadline=None)
@given(
    jigsaw=st.integers(1, 3),
    scoring=st.integers(1, 3),
    sequence=st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 5), st.integers(1, 7)), max_size=6),
)
def test_no_sequence_of_permitted_requests_trains_a_network_more_rounds_than_the_policy_has(
    jigsaw: int, scoring: int, sequence: list[Asked]
) -> None:
    """Whatever is asked for, in whatever order and under whatever id, and whenever the policy changes."""
    campaign = plan(jigsaw, scoring)
    names = list(networks(campaign))
    trained: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "site.toml").write_text(
            'name = "north"\n' + asking.CAUTIOUS.replace("[policy]", "[policy]\nversion = 2"),
            encoding="utf-8",
        )
        centre = asking.Centre(folder, campaign)
        try:
            campaigns.consider(Site.open(folder), centre.plan_request())
        except UnapprovedError:
            campaigns.decide(Site.open(folder), campaign.plan_hash(), Status.APPROVED, by="me")
        honest = [(at, n, 7) for at, most in enumerate((jigsaw, scoring)) for n in range(1, most + 1)]
        for number, (at, server_round, maximum) in enumerate([*sequence, *honest]):
            name = names[at]
            asked = request(campaign, name, server_round, f"r{number}")
            before = trained[name]
            if permitted(folder, maximum, asked):
                assert jigsaw + scoring <= maximum
                assert not permitted(folder, maximum, replace(asked, request_id=f"again{number}"))
                trained[name] += server_round <= network_rounds(networks(campaign)[name], campaign)
                assert trained[name] <= maximum
            assert trained[name] - before in (0, 1)
    most = max(trained.values(), default=0)
    assert most == max(jigsaw, scoring)  # all that is asked for honestly is permitted
    assert trained[names[0]] + trained[names[1]] == jigsaw + scoring
