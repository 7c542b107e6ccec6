"""The comparison of networks: same patients, same budget, encoders by configuration; who pays for the noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common import settings as configuration
from common.networks.spec import COMBINED
from common.text.terminal import Console
from private_utility import networks_study, networks_view, private_heads, utility_study
from private_utility.networks_study import Design
from private_utility.networks_view import Comparison
from private_utility.utility_study import SITES, Size
from simulation.engine.progress import Display

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = Size(
    patients=(20,), held_out=3, draws=2, rehearsals=1, rates=(1.0,), open_rates=(2.0,), rounds=3, alone=False
)
RECIPE = """
name = "{name}"
seed = 7
validity = "eoss"
[images.gs]
kind = "grey"
[images.doppler]
kind = "doppler"
[measurements.hypertrophy]
grades = 4
images = ["gs", "doppler"]
[measurements.vascularity]
grades = 4
images = ["doppler"]
[network]
backbone = "small"
image_px = 32
width = 4
hidden = 8
[training]
batch_size = 16
local_steps = 4
[federation]
rounds = 1
[probe]
encoders = {encoders}
neck = {neck}
[cohort.phantom]
seed = {seed}
sites = 2
patients = 20
exams_per_patient = 4
image_px = 64
held_out = 0.1
unseen_device = false
[cohort.phantom.shift]
devices = "drawn"
spread = {spread}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def found(folder: Path) -> Comparison:
    designs = []
    for name, encoders, neck, spread in (("usual", 1, 3, 1.0), ("varied", 2, 4, 2.0)):
        config = folder / f"{name}.toml"
        config.write_text(
            RECIPE.format(name=name, encoders=encoders, neck=neck, spread=spread, seed=90 + encoders)
        )
        designs.append(Design(name=name, config=config))
    settings = configuration.load(CONFIGS / "rating_private.toml")
    small = settings.evaluate.model_copy(update={"bootstrap": 50})
    with Display(Console(quiet=True)) as display:
        return networks_study.compare(
            settings.model_copy(update={"evaluate": small}),
            designs,
            size=SIZE,
            folder=folder,
            display=display,
        )


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_designs_are_trained_on_the_same_patients_with_the_same_budget(found: Comparison) -> None:
    usual, varied = found.designs
    assert (found.patients, found.sites, found.tested, found.draws) == (20, SITES, 3 * SITES, 2)
    assert (usual.members, usual.weights) == (1, 2 * 4 * (3 + 1))
    assert (varied.members, varied.weights) == (2, 2 * 2 * 4 * (4 + 1))
    assert usual.encoders != varied.encoders
    assert all(gain.value == gain.low == gain.high == 0 for gain in usual.gained.values())
    for score, gain in varied.gained.items():
        difference = varied.scores[score].kappa.value - usual.scores[score].kappa.value
        assert gain.value == pytest.approx(difference)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_what_grades_and_sites_pay_adds_up_to_what_all_pay(found: Comparison) -> None:
    for score in ("hypertrophy", "vascularity", COMBINED):
        of_score = [p for p in found.payers if p.design == "varied" and p.score == score]
        grades = [p for p in of_score if p.group.startswith("grade")]
        sites = [p for p in of_score if p.group.startswith("site")]
        assert len(sites) == SITES
        assert sum(p.exams for p in grades) == sum(p.exams for p in sites) == found.exams
        totals = [sum(p.private * p.exams for p in some) for some in (grades, sites)]
        assert totals[0] == pytest.approx(totals[1])
        for one in of_score:
            assert one.more.value == pytest.approx(one.private - one.open)
    text = "\n".join(networks_view.text(found, by="this version", cost=""))
    assert "**varied** gains" in text
    assert "### Who pays for the noise" in text
    assert text.count("most is paid by") == 2


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ci
def test_a_design_names_how_many_encoders_heads_have_and_where_they_start(
    found: Comparison, folder: Path
) -> None:
    del found  # which made the encoders
    settings = configuration.load(CONFIGS / "rating_private.toml")
    design = Design(name="one", config=folder / "varied.toml", encoders=1, start="encoder")
    with Display(Console(quiet=True)) as display:
        made = networks_study.designed(settings, design, folder=folder, display=display)
        other = networks_study.designed(
            settings, replace(design, start="random"), folder=folder, display=display
        )
    assert (made.probe.encoders, made.probe.start, made.probe.neck) == (1, "encoder", 4)
    assert made.plan_hash() != other.plan_hash()


@pytest.mark.soak
@pytest.mark.ci
def test_where_no_norm_has_moved_networks_answer_as_their_heads(found: Comparison, folder: Path) -> None:
    settings = configuration.load(CONFIGS / "rating_private.toml")
    heads = Design(name="heads", config=folder / "varied.toml", start="encoder")
    answered, sizes = [], []
    for design in (heads, replace(heads, train="norms")):
        with Display(Console(quiet=True)) as display:
            made = networks_study.designed(settings, design, folder=folder, display=display)
        campaign = utility_study.bench(made, SIZE, cohorts=folder / "cohorts", rehearsal=True).campaign
        sizes.append(len(campaign.start))
        answered.append(private_heads.answers(campaign, campaign.start))
    moves = 2 * (4 + 4 + 4 + 8 + 8 + 16 + 16)
    assert sizes[1] - sizes[0] == 2 * (2 + 1) * moves  # two members; hypertrophy is read from two pictures
    pd.testing.assert_frame_equal(*answered)
    assert len(answered[0]) == found.exams


@pytest.mark.soak
@pytest.mark.ci
def test_a_goal_is_reached_by_the_gain_and_its_interval_is_told(found: Comparison) -> None:
    first, other = found.designs
    gained = {name: replace(gain, value=0.03, low=-0.01, high=0.07) for name, gain in other.gained.items()}
    text = "\n".join(
        networks_view.text(replace(found, designs=(first, replace(other, gained=gained))), by="", cost="")
    )
    assert "reaches 0.02; its interval holds zero" in text


def test_the_mean_over_some_exams_is_drawn_by_patients() -> None:
    values, owner = np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1])
    among = np.array([True, True, False])
    drawn = networks_study._mean(values, among, owner, np.array([[2, 0], [0, 2], [1, 1]]))
    assert (drawn.value, drawn.low, drawn.high) == (2.0, 2.0, 2.0)
    everybody = networks_study._mean(values, among | True, owner, np.array([[2, 0], [0, 2]]))
    assert everybody.value == 3.0
    assert (everybody.low, everybody.high) == pytest.approx(tuple(np.quantile([2.0, 5.0], [0.025, 0.975])))
