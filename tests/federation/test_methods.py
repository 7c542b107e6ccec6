"""Each published system over real sites in process: it learns, repeats itself, resumes, and scores with a report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import synofed
from client.app import app as client_app
from common.machine import network_files
from common.methods.stages import method, networks
from common.scoring import eoss
from common.settings import Settings, load
from server.campaign import campaign
from server.campaign.campaign import Event, Outcome
from server.campaign.roster import Roster
from server.rounds.journal import RoundRecord
from simulation.engine.grid import InProcessGrid, StrictGrid, Workers
from tests.marks import SOAK_CI
from tests.site_folders import make_site_folder

CONFIG = """
name = "small"
seed = 3
validity = "eoss"
[images.gs]
kind = "grey"
[images.doppler]
kind = "doppler"
[measurements.hypertrophy]
images = ["gs", "doppler"]
[measurements.vascularity]
images = ["doppler"]
[network]
image_px = 16
width = 4
hidden = 8
[training]
learning_rate = 0.02
batch_size = 16
local_steps = 4
[federation]
rounds = 4
[rating]
folds = 2
models = 1
replicas = 1
pretraining = "jigsaw"
[rating.jigsaw]
image_px = 48
tile_px = 12
permutations = 4
measurements = ["hypertrophy"]
[andersen]
binary_backbone = "small"
backbone = "small"
encoder = "trained"
learning_rates = [0.02, 0.01]
batch_sizes = [8, 16]
[evaluate]
bootstrap = 100
[cohort]
folder = "{folder}"
"""
METHODS = {
    "rating": {"jigsaw": 1, "features": 9, "fusion": 3},
    "andersen": {"layers": 4, "ensemble": 4},
    "christensen": {"cascade": 3},
}
"""Method -> networks of each stage, as the settings above ask for them."""
Observer = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A campaign that ran through."""

    folder: Path
    outcome: Outcome
    records: tuple[RoundRecord, ...]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            folder / name, name=name, patients=12, exams_per_patient=4, seed=seed, held_out_patients=4
        )
    path = folder / "small.toml"
    path.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    return path


def campaign_of(config: Path, name: str, out: Path, *, observer: Observer = lambda event: None) -> Outcome:
    settings = load(config, overrides=[f"method={name}"])
    folders = [config.parent / site for site in ("north", "south")]
    out.mkdir(exist_ok=True)
    with Workers(("cpu",), threads=1) as pool:
        grid = StrictGrid(InProcessGrid(client_app, folders, pool))
        return campaign.run(
            grid, settings, roster=Roster.anyone(2), folder=out, campaign="test", observer=observer
        )


MORE = [
    pytest.param("rating", marks=pytest.mark.soak),
    pytest.param("andersen", marks=SOAK_CI),
    "christensen",
]
"""Methods again, of which one, the cheapest, is always gone through to the end."""


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ran(config: Path, name: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    records: list[RoundRecord] = []

    def observe(event: Event) -> None:
        if isinstance(event, RoundRecord):
            records.append(event)

    folder = tmp_path_factory.mktemp(name)
    outcome = campaign_of(config, name, folder, observer=observe)
    return Ran(folder=folder, outcome=outcome, records=tuple(records))


def configured(config: Path, name: str) -> Settings:
    return load(config, overrides=[f"method={name}"])


def trained(folder: Path) -> dict[str, network_files.TrainedNetwork]:
    return {network.spec.name: network for network in network_files.load_all(folder / "networks")}


def assert_same(one: Path, other: Path) -> None:
    first, second = trained(one), trained(other)
    assert list(first) == list(second) != []
    for name, network in first.items():
        assert network.result == second[name].result or np.isnan(network.result.auc)
        np.testing.assert_array_equal(network.weights, second[name].weights)


def test_its_networks_are_trained_stage_by_stage(ran: Ran, config: Path, name: str) -> None:
    settings = configured(config, name)
    found = trained(ran.folder)
    stages = list(method(name).stages(settings, ran.outcome.results))
    assert {stage.name: len(stage.networks) for stage in stages} == METHODS[name]
    assert set(found) == {spec.name for stage in stages for spec in stage.networks}
    assert set(found) <= set(networks(settings))
    assert list(dict.fromkeys(record.stage for record in ran.records)) == list(METHODS[name])


def test_it_learns(ran: Ran, name: str) -> None:
    binary = [n for n in trained(ran.folder).values() if n.spec.target.kind == "binary" and n.spec.scoring]
    aucs = {network.spec.name: network.result.auc for network in binary}
    assert np.mean(list(aucs.values())) > 0.8, aucs
    for stage in set(METHODS[name]) - {
        "jigsaw"
    }:  # these pictures look alike in every place: no puzzle to learn
        losses = [r.loss for r in ran.records if r.stage == stage and not np.isnan(r.loss)]
        assert losses[-1] < 0.95 * losses[0], f"{stage}: {losses}"


@pytest.mark.parametrize("name", MORE, indirect=True, scope="module")
def test_interrupted_in_each_stage_it_resumes_to_the_same_bits(
    ran: Ran, config: Path, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "interrupted"
    for stage in METHODS[name]:

        def interrupt(event: Event, stage: str = stage) -> None:
            if isinstance(event, RoundRecord) and (event.stage, event.round) == (stage, 2):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            campaign_of(config, name, folder, observer=interrupt)
    campaign_of(config, name, folder)
    assert_same(ran.folder, folder)


@pytest.mark.parametrize("name", MORE, indirect=True, scope="module")
def test_run_again_as_a_study_it_has_the_same_bits_and_scores_with_a_report(
    config: Path, name: str, ran: Ran, tmp_path: Path
) -> None:
    run = synofed.simulate(config, out=tmp_path / "run", overrides=[f"method={name}"])
    metrics, predictions = run.metrics(), run.predictions()
    scores = method(name).scores(configured(config, name))
    for score, grades in scores.items():
        assert set(predictions[f"decision_{score}"]) <= set(range(grades))
    assert np.sum(metrics["combined"]["confusion"]) == len(predictions) == 2 * 4 * 4
    assert metrics["combined"]["accuracy"]["value"] > 0.35  # four grades, chance would be a quarter
    if name == "rating":
        assert eoss.is_valid(predictions["decision_hypertrophy"], predictions["decision_vascularity"]).all()
    report = (run.path / "report.html").read_text(encoding="utf-8")
    assert len(report) > 10_000
    assert_same(ran.folder, run.path)
