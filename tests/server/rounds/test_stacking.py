"""Sums for stacking at the centre: who sends what cannot be is dropped, the rest is added up in the sites' order."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.aggregation.algorithms import algorithm
from common.ensemble.stacked_regression import NormalSums
from common.messages import TrainReply, TrainRequest
from common.methods import groups
from common.methods.stages import method
from common.settings import Settings, parse
from server.rounds import journal, weights
from server.rounds.journal import Journal
from server.rounds.rounds import GroupRounds
from server.rounds.spool import Spool
from tests.server_rounds import SITES, reply
from tests.simulation.runs.test_svdh_runs import CONFIG

SCORED = 3
"""The round after the two of training."""
NAME = "svdh/fold0"


def settings() -> Settings:
    text = CONFIG.format(folder="x")
    return parse(text, overrides=["federation.rounds=2", "federation.quorum=1"])


def rounds(folder: Path) -> GroupRounds:
    """All networks in one group, two folds."""
    plan = settings()
    (stage,) = method("svdh").stages(plan, {})
    (group,) = groups.of_stage(stage, plan)
    return GroupRounds(
        group,
        settings=plan,
        campaign="test",
        sites=lambda: SITES,
        start=weights.StartWeights(plan, folder / "networks"),
        algorithm=algorithm(plan.federation),
        journal=Journal(folder / "journal", group.name),
        spool=Spool(folder / "spool", group.name),
    )


def sums(site: str) -> NormalSums:
    rng = np.random.default_rng(SITES.index(site))
    count = 5 + SITES.index(site)
    return NormalSums.of(rng.uniform(0, 1, (count, 1)), rng.uniform(0, 1, count))


def answer(request: TrainRequest, site: str, stacking: Mapping[str, np.ndarray]) -> TrainReply:
    made = reply(request, site)
    networks = {name: replace(one, histograms=None) for name, one in made.networks.items()}
    return replace(made, networks=networks, stacking=stacking)


def trained(folder: Path) -> GroupRounds:
    """Where the final weights are yet to be scored."""
    found = rounds(folder)
    for _ in range(SCORED - 1):
        request = found.request()
        for site in SITES:
            found.accept(site, answer(request, site, {}))
        found.close()
    return found


def given(folder: Path) -> dict[str, journal.SitesSums]:
    return journal.stacking(folder / "journal", plan_hash=settings().plan_hash())


def test_sums_are_added_in_the_order_of_the_sites_and_kept(tmp_path: Path) -> None:
    found = []
    for place, order in enumerate(itertools.permutations(SITES)):
        folder = tmp_path / str(place)
        group = trained(folder)
        assert given(folder) == {}
        request = group.request()
        for site in order:
            group.accept(site, answer(request, site, {NAME: sums(site).matrix}))
        group.close()
        assert group.done
        found.append(given(folder))
    assert all(one == found[0] for one in found)
    expected = sums("north") + sums("south") + sums("west")
    total = found[0][NAME].total
    np.testing.assert_array_equal(total.matrix, expected.matrix)
    assert dict(found[0][NAME].sites) == {"north": 5, "south": 6, "west": 7}


@pytest.mark.parametrize(
    "stacking",
    [
        {NAME: np.full((2, 3), np.nan)},
        {NAME: np.ones((3, 4))},
        {NAME: np.array([[1.0, 1.0, 1.0], [0.5, 2.0, 1.0]])},
        {"svdh/fold7": sums("south").matrix},
        {"severity/fold0": sums("south").matrix},
    ],
    ids=["NaN", "shape", "not symmetric", "no such fold", "no number"],
)
def test_a_site_whose_sums_cannot_be_is_dropped_and_the_rest_goes_on(
    tmp_path: Path, stacking: Mapping[str, np.ndarray]
) -> None:
    group = trained(tmp_path)
    request = group.request()
    group.accept("south", answer(request, "south", stacking))
    for site in ("north", "west"):
        group.accept(site, answer(request, site, {NAME: sums(site).matrix}))
    record = group.close()
    assert "Expected sums for stacking" in record.dropped["south"]
    assert list(given(tmp_path)[NAME].sites) == ["north", "west"]


def test_sums_of_weights_that_are_not_the_final_ones_are_refused(tmp_path: Path) -> None:
    group = rounds(tmp_path)
    request = group.request()
    group.accept("south", answer(request, "south", {NAME: sums("south").matrix}))
    group.accept("north", answer(request, "north", {}))
    group.accept("west", answer(request, "west", {}))
    assert "Expected sums for stacking of [] only" in group.close().dropped["south"]


def test_a_centre_that_begins_again_has_the_same_sums(tmp_path: Path) -> None:
    request = trained(tmp_path).request()
    again = rounds(tmp_path)
    assert again.request().request_id == request.request_id
    for site in SITES:
        again.accept(site, answer(request, site, {NAME: sums(site).matrix}))
    again.close()
    before = given(tmp_path)
    assert rounds(tmp_path).done
    assert given(tmp_path) == before != {}
