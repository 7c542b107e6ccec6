"""Stacked numbers over sites: their sums come through the exchange, and the weights go with the ensemble."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import synofed
from client.data.site_store import site_store
from client.ensemble import pieces
from client.site.site import Site
from common import signed_json
from common.ensemble.committee import Committee
from common.ensemble.stacked_regression import NormalSums
from common.ensemble.statement import Statement
from common.errors import UpdateError
from common.machine import network_files
from common.methods.stages import NetworkResult, networks, stacked
from common.sections.networks import NetworkSettings
from common.settings import Settings, load
from common.text.terminal import Console
from server.campaign.campaign import Outcome, Status
from server.campaign.ensemble import Ensemble
from server.report import inside
from server.rounds import journal
from simulation.engine.progress import Display
from simulation.evaluation import score
from simulation.runs.simulate import simulate
from tests.marks import SOAK_CI
from tests.simulation.runs.test_svdh_runs import CONFIG, site

TWO = """
[campaign]
evaluation = true
[svdh]
backbones = ["small", "tests.simulation.runs.test_stacking_over_sites:Brightness"]
ridge = 0.0
"""
FEW = 7
"""Training patients of each of three folds at most; twice as many train its networks."""


class Brightness(nn.Module):
    """A backbone of one feature, and another opinion than the small ResNet's."""

    features = 1

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mean over the picture."""
        return x.mean((1, 2, 3))[:, None]


def made(base: Path, *, south: tuple[str, str] = ("", "")) -> Path:
    """Two sites with 20 training patients each; of one a line of the policy is another."""
    for seed, name in enumerate(("north", "south")):
        site(base / "cohort" / name, name, seed=seed)
    toml = base / "cohort" / "south" / "site.toml"
    assert south[0] in toml.read_text()
    toml.write_text(toml.read_text().replace(*south))
    text = CONFIG.format(folder=base / "cohort").replace('[svdh]\nbackbones = ["small"]\n', TWO)
    text = text.replace("folds = 2", "folds = 3").replace("local_steps = 15", "local_steps = 2")
    (base / "tiny.toml").write_text(
        text.replace("rounds = 4", "rounds = 2\ngroup_bytes = 1").replace('"kept"', '"fresh"')
    )
    return base / "tiny.toml"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("stacking"))


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    return synofed.simulate(config, out=config.parent / "run").path


def read(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def sums_of(run: Path, settings: Settings) -> dict[str, journal.SitesSums]:
    return journal.stacking(run / "journal", plan_hash=settings.plan_hash())


def pooled(run: Path, cohort: Path, settings: Settings) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Fold -> shares that its networks tell of its patients of all sites, and those of the labels, in one place."""
    committee = network_files.committee(list(network_files.load_all(run / "networks")), settings)
    found = {}
    for fold in range(settings.rating.folds):
        asked = committee.of_fold(fold)
        parts = [of_fold(asked, fold, Site.open(cohort / name), settings) for name in ("north", "south")]
        found[fold] = tuple(map(np.concatenate, zip(*parts, strict=True)))
    return found  # type: ignore[return-value]


def of_fold(asked: Committee, fold: int, site: Site, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    data = site_store(site, settings).tensors
    exams = torch.nonzero(data.fold == fold).flatten()
    names = [s.name for members in stacked(asked.specs, settings).values() for s in members]
    shares = {output.spec.name: output.probabilities[:, 0] for output in asked.outputs(data.images, exams)}
    return (
        np.stack([shares[name] for name in names], axis=1).astype(np.float64),
        data.numbers["svdh"][exams].double().numpy(),
    )


def test_sites_tell_the_sums_of_their_held_out_numbers(run: Path, tmp_path: Path) -> None:
    """Of the number that the ensemble gives, stacked; what they say is what the table of predictions says."""
    frame, judged = pd.read_parquet(run / "predictions.parquet"), inside.read(run)
    for place, part in [("pooled", frame), *((s, frame[frame["site"] == s]) for s in ("north", "south"))]:
        found = (judged["numbers"]["pooled"] if place == "pooled" else judged["numbers"]["sites"][place])[
            "svdh"
        ]
        y, x = part["label_svdh"].to_numpy(), part["number_svdh"].to_numpy()
        assert (found["exams"], found["patients"]) == (len(part), len(part))
        assert found["pearson"]["value"] == pytest.approx(np.corrcoef(y, x)[0, 1], abs=1e-5)
        assert found["rmse"]["value"] == pytest.approx(np.sqrt(((x - y) ** 2).mean()), rel=1e-4)
        assert found["mae"]["value"] == pytest.approx(np.abs(x - y).mean(), rel=1e-4)
        assert found["bias"]["value"] == pytest.approx((x - y).mean(), abs=1e-2)
        assert found["pearson"]["ci95"][0] < found["pearson"]["value"] < found["pearson"]["ci95"][1]
    assert "From sums over each site" in (run / "report.html").read_text(encoding="utf-8")
    shutil.copytree(run, tmp_path / "run")
    statement, page = synofed.passport(tmp_path / "run")
    assert "How well it tells numbers" in page.read_text(encoding="utf-8")
    stated = json.loads(statement.read_bytes())["passport"]
    assert stated["numbers"] == {"svdh": [0.0, 280.0]}
    assert stated["judged"]["numbers"] == judged["numbers"]


def test_the_sums_over_the_exchange_give_pooled_least_squares(config: Path, run: Path) -> None:
    settings = load(config)
    given, folds = sums_of(run, settings), pooled(run, config.parent / "cohort", settings)
    assert set(given) == {f"svdh/fold{fold}" for fold in range(3)}
    for fold, (answers, truth) in folds.items():
        of_sites = given[f"svdh/fold{fold}"]
        np.testing.assert_allclose(of_sites.total.matrix, NormalSums.of(answers, truth).matrix, rtol=1e-6)
        assert sum(of_sites.sites.values()) == len(truth)
    stack = read(run, "manifest.json")["stacks"]["svdh"]
    answers, truth = map(np.concatenate, zip(*folds.values(), strict=True))
    design = np.column_stack([answers, np.ones(len(answers))])
    expected = design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    assert list(stack["weights"]) == [f"svdh/{backbone}/svdh/number" for backbone in settings.svdh.backbones]
    found = design @ np.array([*stack["weights"].values(), stack["intercept"]])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_whoever_asks_the_ensemble_gets_the_stacked_number(config: Path, run: Path) -> None:
    settings, frame = load(config), pd.read_parquet(run / "predictions.parquet")
    committee = score.open_committee(run)
    for name in ("north", "south"):
        data = site_store(Site.open(config.parent / "cohort" / name), settings).tensors
        scores = committee.score(data.images, torch.nonzero(data.fold == -1).flatten())
        rows = frame[frame["site"] == name]
        np.testing.assert_allclose(scores.number("svdh"), rows["number_svdh"], atol=1e-6)
        assert np.abs(scores.numbers["svdh"].mean(axis=1) - scores.number("svdh")).max() > 1


def test_the_weights_are_in_what_the_centre_signs_and_a_site_checks_them(config: Path, run: Path) -> None:
    settings = load(config)
    committee = score.open_committee(run)
    outcome = Outcome(
        status=Status.COMPLETE_ALL_SITES, sites=("north", "south"), missing={}, stacks=committee.stacks,
        results={n: NetworkResult(best_round=2, auc=float("nan"), threshold=0.5) for n in networks(settings)},
    )  # fmt: skip
    sent = Ensemble.of(outcome, settings, folder=run, campaign="tiny", home=None)
    statement = Statement.model_validate(signed_json.parse(sent.text))
    assert statement.stacks == dict(committee.stacks) != {}
    assert set(pieces.planned(statement, settings)) == set(networks(settings))
    (stack,) = statement.stacks.values()
    for stacks in (
        {"other": stack},
        {"svdh": stack.model_copy(update={"weights": {"svdh/small/svdh/number": 1.0}})},
    ):
        with pytest.raises(UpdateError, match="Expected stacked numbers as the plan has them"):
            pieces.planned(statement.model_copy(update={"stacks": stacks}), settings)


@pytest.mark.soak
def test_interrupted_before_the_sums_came_it_ends_the_same(config: Path, run: Path) -> None:
    other = shutil.copytree(run, config.parent / "other")
    last = sorted((other / "journal").glob("*/round_000003.safetensors"))
    assert last
    for path in last[::2]:
        path.unlink()
    settings = load(config)
    assert len(sums_of(other, settings)) < 3
    again = synofed.simulate(config, out=other, resume=True).path
    assert sums_of(again, settings) == sums_of(run, settings)
    assert read(again, "manifest.json")["stacks"] == read(run, "manifest.json")["stacks"]
    assert read(again, "metrics.json")["stacking"] == read(run, "metrics.json")["stacking"]


@pytest.mark.parametrize(
    "south",
    [
        pytest.param((', "stacking_sums"', ""), id="no permission", marks=pytest.mark.soak),
        pytest.param(
            ("minimum_cohort = 5", f"minimum_cohort = {FEW + 1}"), id="too few patients", marks=SOAK_CI
        ),
    ],
)
def test_a_site_that_sends_none_trains_all_the_same(
    tmp_path: Path, config: Path, run: Path, south: tuple[str, str]
) -> None:
    other_config = made(tmp_path, south=south)
    other = synofed.simulate(other_config, out=tmp_path / "run").path
    for file in sorted((run / "networks").iterdir()):
        assert file.read_bytes() == (other / "networks" / file.name).read_bytes()
    stacking = read(other, "metrics.json")["stacking"]
    assert stacking["sites"] == {"north": 20}
    assert stacking["without"] == ["south"]
    all_sums = sums_of(run, load(config))
    for name, sums in sums_of(other, load(other_config)).items():
        assert set(sums.sites) == {"north"}
        assert sums.total.exams == all_sums[name].sites["north"]


@pytest.mark.soak
def test_where_no_site_sends_any_the_mean_is_taken_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = made(tmp_path, south=(', "stacking_sums"', ""))
    toml = tmp_path / "cohort" / "north" / "site.toml"
    toml.write_text(toml.read_text().replace(', "stacking_sums"', ""))
    run = synofed.simulate(config, out=tmp_path / "run").path
    assert read(run, "manifest.json")["stacks"] == {}
    assert "stacking" not in read(run, "metrics.json")
    assert "no sums for the stacking of svdh" in (run / "log.txt").read_text()
    frame = pd.read_parquet(run / "predictions.parquet")
    columns = [f"number_svdh_{k}" for k in range(6)]
    np.testing.assert_allclose(frame["number_svdh"], frame[columns].mean(axis=1))


@pytest.mark.soak
def test_networks_of_another_run_are_taken_but_those_whose_sums_have_to_come(config: Path, run: Path) -> None:
    base, settings = config.parent, load(config)
    with Display(Console(quiet=True)) as display:
        for name in ("first", "second"):
            simulate(
                settings, out=base / name, resume=False, display=display, networks_folder=base / "shared"
            )
    stacks = read(run, "manifest.json")["stacks"]
    for name, trained in (("first", 12), ("second", 6)):
        manifest = read(base / name, "manifest.json")
        assert (manifest["trained_networks"], manifest["stacks"]) == (trained, stacks)
