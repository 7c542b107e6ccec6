"""A site that trains networks at once answers as one that trains them one by one; a card gives pictures back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from client.rounds import exchange, memory, node
from client.site.site import Site
from common.aggregation import together
from common.messages import MissingWeights, TrainReply, TrainRequest
from common.methods.stages import networks
from common.networks import build
from common.networks.spec import NetworkSpec
from common.settings import Settings, parse
from common.training import resident
from common.training.together import Task, train_networks
from tests.simulation.runs.test_svdh_runs import CONFIG, site

CPU = torch.device("cpu")


@pytest.fixture
def north(tmp_path: Path) -> Site:
    site(tmp_path / "north", "north", seed=1)
    return Site.open(tmp_path / "north")


def asked(plan: Settings) -> list[NetworkSpec]:
    return [spec for spec in networks(plan).values() if spec.target.kind == "regression"]


def request_of(plan: Settings) -> TrainRequest:
    specs = asked(plan)
    return TrainRequest(
        campaign="c",
        plan_hash=plan.plan_hash(),
        request_id="r",
        group="g",
        server_round=1,
        run="0" * 32,
        encoding="float32",
        weights={s.name: build.initial_weights(s, plan.network, seed=2).numpy() for s in specs},
        layouts={s.name: build.layout(s, plan.network).hash for s in specs},
    )


def answer(site: Site, plan: Settings, *, stacked: bool) -> TrainReply:
    reply = node.train(site, request_of(plan), plan, device=CPU, stacked_training=stacked)
    assert isinstance(reply, TrainReply)
    assert list(reply.networks) == [spec.name for spec in asked(plan)]
    return reply


@pytest.mark.parametrize("state", ["fresh", "kept"])
def test_the_reply_is_that_of_one_by_one(north: Site, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counted(tasks: Sequence[Task]) -> object:
        counts.append(len(tasks))
        return train_networks(tasks)

    monkeypatch.setattr(together, "train_networks", counted)
    plan = parse(
        CONFIG.format(folder="x"),
        overrides=['svdh.backbones=["small"]', f'federation.optimiser_state="{state}"'],
    )
    expected = answer(north, plan, stacked=False)
    assert not counts
    found = answer(north, plan, stacked=True)
    assert max(counts) > 1
    for name, alone in expected.networks.items():
        mine = found.networks[name]
        assert alone.update is not None
        assert mine.update is not None
        assert mine.num_examples == alone.num_examples > 0
        assert mine.loss == pytest.approx(alone.loss, rel=1e-3)
        assert (mine.histograms is None) == (alone.histograms is None)
        if alone.histograms is not None:  # of the received weights: nothing is stacked for them
            np.testing.assert_array_equal(mine.histograms, alone.histograms)
        distance = np.linalg.norm(mine.update - alone.update) / np.linalg.norm(alone.update)
        assert distance < 1e-2


def test_pictures_leave_a_crowded_device_before_anything_else_is_given_up(
    north: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [True]
    monkeypatch.setattr(resident, "let_go", lambda device: held.pop() if held else False)
    tried: list[int] = []

    def work(device: torch.device, share: int) -> str:
        tried.append(share)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("too little")
        return "trained"

    assert memory.within(north, CPU, work) == "trained"  # though its policy refuses smaller batches
    assert tried == [1, 1]


@pytest.mark.parametrize(
    ("run", "own", "expected"), [(None, "true", True), (False, "true", False), (None, "", False)]
)
def test_the_run_says_it_or_else_the_site(
    north: Site, run: bool | None, own: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def train(*args: object, **kwargs: object) -> MissingWeights:
        seen.append(kwargs["stacked_training"])
        return MissingWeights(site="north", request_id="r", hashes=())

    if own:
        with (north.folder / "site.toml").open("a", encoding="utf-8") as file:
            file.write(f"\n[compute]\nstacked = {own}\n")
    monkeypatch.setattr(node, "train", train)
    plan = parse(CONFIG.format(folder="x"), overrides=['svdh.backbones=["small"]'])
    compute = exchange.Compute(device="cpu", threads=1, stacked=run)
    exchange._trained(Site.open(north.folder), request_of(plan), plan, compute)
    assert seen == [expected]
