"""Sums for the stacking of a total score, over TLS from real sites: the same as in one process."""

import csv
from pathlib import Path

import numpy as np
import pytest

from client.ensemble import delivery
from client.site.site import Site
from common.ensemble import number_stack
from common.methods.stages import networks
from common.sections.campaign import CampaignSettings
from common.settings import Settings, parse
from server.rounds import journal
from server.runs import submit
from tests.deployment.federation import Federation, simulated_sites
from tests.deployment.test_end_to_end import assert_same_bits, in_process
from tests.simulation.runs.test_svdh_runs import site
from tests.site_folders import read_table

pytestmark = [pytest.mark.slow, pytest.mark.soak]
SITES = ("dublin", "espoo", "galway")
TEXT = """
name = "stacked"
seed = 5
method = "svdh"
images.hands.kind = "grey"
numbers.svdh = {largest = 280, step = 0.5, usual = 100, spread = 60, images = ["hands"]}
measurements.severity = {number = "svdh", edges = [40, 90, 150], images = ["hands"]}
network = {backbone = "small", image_px = 32, width = 4}
training = {batch_size = 8, local_steps = 2}
federation = {rounds = 1, selection = "last"}
rating.folds = 2
svdh = {backbones = ["small", "mobilenet_v2"], transfer = "none"}
"""


def made(folder: Path) -> Federation:
    """Three sites; the policy of the last keeps its sums."""
    federation = Federation.make(folder, ())
    for seed, name in enumerate(SITES):
        place = site(federation.site(name), name, seed=seed)
        rows = read_table(place / "manifest.csv")
        with (place / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*rows[0], "fold"])
            table.writeheader()
            for index, row in enumerate(rows):  # else the site's key draws the folds
                table.writerow({**row, "fold": "" if row["split"] == "test" else str(index % 2)})
        if name == SITES[-1]:
            toml = place / "site.toml"
            toml.write_text(toml.read_text(encoding="utf-8").replace(', "stacking_sums"', ""))
        federation.enrol(place)
    return federation


def sums(folder: Path, settings: Settings) -> dict[str, journal.SitesSums]:
    return journal.stacking(folder / "journal", plan_hash=settings.plan_hash())


def test_sums_over_tls_are_those_in_one_process_and_their_weights_reach_the_sites(tmp_path: Path) -> None:
    federation = made(tmp_path / "real")
    settings = parse(TEXT)
    settings = settings.model_copy(update={"campaign": CampaignSettings(recipients=("sites",))})
    copies = simulated_sites(federation, SITES, tmp_path)
    try:
        federation.connected(SITES)
        run = federation.ended(submit.submit(federation.home, settings))
    finally:
        federation.close()
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    alone = in_process(settings, copies, tmp_path / "alone")
    assert_same_bits(run.path, alone)
    travelled = sums(run.path, run.settings())
    assert travelled == sums(alone, settings)
    assert set(travelled) == {"svdh/fold0", "svdh/fold1"}
    for one in travelled.values():
        assert one.total.exams == sum(one.sites.values()) > 10
        assert set(one.sites) == set(SITES[:2])
    solved = number_stack.solved(
        {name: one.total for name, one in travelled.items()}, networks(settings).values(), settings
    )
    assert list(solved["svdh"].weights) == ["svdh/small/svdh/number", "svdh/mobilenet_v2/svdh/number"]
    assert np.isfinite([*solved["svdh"].weights.values(), solved["svdh"].intercept]).all()
    for name in SITES:
        statement, _ = delivery.opened(Site.open(federation.site(name)), run.settings().plan_hash())
        assert dict(statement.stacks) == solved
