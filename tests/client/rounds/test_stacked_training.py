"""A site that trains networks at once answers as one that trains them one by one; a card gives pictures back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from client.rounds import memory, node
from client.site.site import Site
from common.aggregation import together
from common.messages import TrainReply, TrainRequest
from common.methods.stages import networks
from common.networks import build
from common.settings import Settings, parse
from common.training import resident
from common.training.together import Task, train_networks
from tests.simulation.runs.test_svdh_runs import CONFIG, site

CPU = torch.device("cpu")


@pytest.fixture
def north(tmp_path: Path) -> Site:
    site(tmp_path / "north", "north", seed=1)
    return Site.open(tmp_path / "north")


def answer(site: Site, plan: Settings, *, stacked: bool) -> TrainReply:
    specs = [spec for spec in networks(plan).values() if spec.target.kind == "regression"]
    request = TrainRequest(
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
    reply = node.train(site, request, plan, device=CPU, stacked_training=stacked)
    assert isinstance(reply, TrainReply)
    assert list(reply.networks) == [spec.name for spec in specs]
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
