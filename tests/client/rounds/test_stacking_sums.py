"""What a site sends for the stacking of a number: sums of the plan's own networks with their final weights alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from client.consent import campaign_page
from client.consent.campaign_page import OwnExams, Page
from client.data.site_store import site_store
from client.rounds import node
from client.site.policy import Policy
from client.site.site import Site
from client.state.decisions import State, Status
from common.ensemble.stacked_regression import NormalSums
from common.errors import PolicyError
from common.messages import TrainReply, TrainRequest
from common.methods.stages import networks
from common.networks import build
from common.networks.spec import NetworkSpec
from common.settings import Settings, parse
from common.training.local import score
from common.training.local_settings import local_settings
from tests.simulation.runs.test_svdh_runs import CONFIG, site

OWN = "tests.simulation.runs.test_stacking_over_sites:Brightness"
SCORES = 2
"""The round after the only one of training."""
CPU = torch.device("cpu")


def settings(*overrides: str) -> Settings:
    given = [
        f'svdh.backbones=["small", "{OWN}"]',
        "federation.rounds=1",
        'federation.optimiser_state="fresh"',
    ]
    return parse(CONFIG.format(folder="x"), overrides=[*given, *overrides])


@pytest.fixture
def north(tmp_path: Path) -> Site:
    site(tmp_path / "north", "north", seed=1)
    return Site.open(tmp_path / "north")


def specs_of(plan: Settings, *, fold: int) -> list[NetworkSpec]:
    return [s for s in networks(plan).values() if s.fold == fold and s.target.kind == "regression"]


def answer(
    site: Site, plan: Settings, specs: Iterable[NetworkSpec], server_round: int = SCORES
) -> TrainReply:
    specs = list(specs)
    request = TrainRequest(
        campaign="c",
        plan_hash=plan.plan_hash(),
        request_id="r",
        group="g",
        server_round=server_round,
        encoding="float32",
        weights={s.name: build.initial_weights(s, plan.network, seed=2).numpy() for s in specs},
        layouts={s.name: build.layout(s, plan.network).hash for s in specs},
    )
    reply = node.train(site, request, plan, device=CPU)
    assert isinstance(reply, TrainReply)
    return reply


def test_they_are_of_the_fold_that_its_networks_left_out(north: Site) -> None:
    plan = settings()
    specs = specs_of(plan, fold=1)
    data = site_store(north, plan).tensors
    exams = torch.nonzero(data.fold == 1).flatten()
    shares = [
        score(build.initial_weights(s, plan.network, seed=2), data, exams, local_settings(s, plan))[:, 0]
        for s in specs
    ]
    expected = NormalSums.of(
        torch.stack(shares, dim=1).double().numpy(), data.numbers["svdh"][exams].double().numpy()
    )
    for asked in (specs, specs[::-1]):  # in whichever order they are asked
        (found,) = answer(north, plan, asked).stacking.items()
        assert found[0] == "svdh/fold1"
        np.testing.assert_allclose(found[1], expected.matrix, rtol=1e-12)
        assert NormalSums.read(found[1], networks=2).exams == len(exams)


def test_both_folds_are_told_apart_and_classes_have_none(north: Site) -> None:
    plan = settings()
    assert set(answer(north, plan, networks(plan).values()).stacking) == {"svdh/fold0", "svdh/fold1"}


def test_there_are_none_of_a_part_of_the_networks_nor_while_they_train(north: Site) -> None:
    plan = settings()
    specs = specs_of(plan, fold=0)
    assert not answer(north, plan, specs[:1]).stacking
    assert not answer(north, plan, [specs[1], *specs_of(plan, fold=1)[:1]]).stacking
    assert not answer(north, plan, specs, server_round=1).stacking
    mean = settings('svdh.stacking="mean"')
    assert not answer(north, mean, specs_of(mean, fold=0)).stacking


def test_there_are_none_without_permission_or_below_the_cohort(north: Site) -> None:
    plan, toml = settings(), north.folder / "site.toml"
    specs, text = specs_of(plan, fold=0), (north.folder / "site.toml").read_text()
    data = site_store(north, plan).tensors
    patients = int((data.fold == 0).sum())
    for changed, leaves in (
        (text.replace("minimum_cohort = 5", f"minimum_cohort = {patients}"), True),
        (text.replace("minimum_cohort = 5", f"minimum_cohort = {patients + 1}"), False),
        (text.replace(', "stacking_sums"', ""), False),
    ):
        assert changed != text
        toml.write_text(changed)
        assert bool(answer(Site.open(north.folder), plan, specs).stacking) == leaves


def shown(site: Site, plan: Settings) -> Page:
    state = State(status=Status.WAITING, names=("tiny",), asked="2026-01-01T00:00:00Z")
    return campaign_page.of_plan(site, plan.plan_hash(), plan, state, own=OwnExams())


def test_the_page_that_is_approved_says_whether_they_leave(north: Site) -> None:
    plan, says = settings(), "sums over its exams of the networks' numbers"
    page = shown(north, plan)
    assert any(says in line and "5 patients or more" in line for line in page.leaves)
    assert not any(says in line for line in page.stays)
    toml = north.folder / "site.toml"
    toml.write_text(toml.read_text().replace(', "stacking_sums"', ""))
    page = shown(Site.open(north.folder), plan)
    assert any(says in line for line in page.stays)
    assert not any(says in line for line in page.leaves)
    page = shown(north, settings('svdh.stacking="mean"'))
    assert not any(says in line for line in (*page.leaves, *page.stays))


def test_backbones_that_are_stacked_are_code_that_the_policy_has_to_permit(north: Site) -> None:
    policy = Policy(allow_unprotected=True, methods=("*",), metrics=("counts",))
    with pytest.raises(PolicyError, match=r"svdh\.backbones\[1\] is 'tests\..*policy\.code"):
        policy.check_plan(settings())
    policy.model_copy(update={"code": (OWN,)}).check_plan(settings())
