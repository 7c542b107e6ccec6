"""The study of what privacy costs: it trains as campaigns do, adds the noise it says, and writes what plans read."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from client.data.site_store import site_store
from client.site.site import Site
from common.errors import ConfigurationError, DataError
from common.evaluation.bootstrap import Estimate
from common.machine import network_files, pretrained
from common.networks.spec import COMBINED
from common.privacy.mechanism.heads import Heads, HeadShape, patient_rows
from common.privacy.mechanism.patient_step import clipped_sum
from common.privacy.mechanism.private_sum import PrivateSum
from common.privacy.planning import utility
from common.sections.cohort import PhantomSettings
from common.secure_aggregation.fixed_point import quantise
from common.settings import Settings
from private_utility import private_heads, records, utility_study, utility_text, utility_view
from private_utility.private_heads import Campaign, Release
from private_utility.records import Before, Made, Record
from private_utility.utility_study import Cell, Size
from private_utility.utility_view import GOAL, CellResult, Measure, Study
from simulation.cohorts import disjoint
from simulation.cohorts.cohort import Cohort, CohortSite
from simulation.engine import engines
from simulation.engine.grid import Workers
from tests.public_encoders import make_encoders
from tests.site_folders import make_settings, make_site_folder

ROUNDS, RATE, SIGMA = 3, 1.5, 20.0
OPEN = Release(noise_multiplier=None, max_grad_norm=1.0, secure=False, learning_rate=RATE, rounds=ROUNDS)
WITHOUT = f"""
[federation]
rounds = {ROUNDS}
[probe]
neck = 6
initialisations = 2
learning_rate = {RATE}
[privacy]
mechanism = "none"
patients = 6
images = 2
"""


def configured(tmp_path: Path, *, seed: int = 0, text: str = WITHOUT) -> Settings:
    folder = tmp_path / "encoders"
    settings = make_settings(text=text, method="probe", weights=str(folder))
    make_encoders(folder, settings, seed=seed)
    return settings


def synthetic(*, sites: int = 3, patients: int = 20, features: int = 5) -> Campaign:
    """Random features of two heads."""
    generator = torch.Generator().manual_seed(1)
    shape = HeadShape(features=features)
    owner = torch.arange(patients).repeat_interleave(2)

    def heads() -> Heads:
        read = torch.randn(2, len(owner), 1, features, generator=generator)
        grades = torch.randint(0, 4, (2, len(owner)), generator=generator)
        rows = patient_rows(read, grades, owner, patients=patients, images=2)
        return Heads(shape=shape, rows=rows, class_weights=torch.ones(2, 4))

    return Campaign(
        settings=make_settings(),
        order=(),
        sites=tuple((heads(),) for _ in range(sites)),
        start=torch.zeros(2 * shape.size),
        tested={},
        pictures={},
        frozen={},
        exams=pd.DataFrame(),
    )


PUBLIC_START = WITHOUT.replace("initialisations = 2", 'initialisations = 1\nencoders = 2\nstart = "encoder"')


@pytest.mark.parametrize("text", [WITHOUT, PUBLIC_START], ids=["random start", "public start"])
def test_without_privacy_the_loop_gives_a_campaigns_networks_and_decisions(tmp_path: Path, text: str) -> None:
    settings = pretrained.resolved(configured(tmp_path, text=text))
    names = ("north", "south")
    folders = [
        make_site_folder(tmp_path / name, name=name, patients=8, held_out_patients=2, seed=seed)
        for seed, name in enumerate(names)
    ]
    with Workers(("cpu",), threads=1) as workers:
        engines.run_campaign(
            settings, folders, folder=tmp_path / "run", observer=lambda event: None, workers=workers
        )
    networks = list(network_files.load_all(tmp_path / "run" / "networks"))
    sites = tuple(CohortSite(name=n, folder=f, trains=True) for n, f in zip(names, folders, strict=True))

    campaign = private_heads.opened(Cohort(folder=tmp_path, sites=sites), settings)
    weights = private_heads.train(campaign, OPEN)

    by_name = {network.spec.name: network.weights for network in networks}
    trained = np.concatenate([by_name[spec.name] for spec in campaign.order])
    assert np.abs(trained - campaign.start.numpy()).max() > 0.1
    np.testing.assert_allclose(weights.numpy(), trained, rtol=1e-5, atol=1e-6)

    committee = network_files.committee(networks, settings)
    answered = private_heads.answers(campaign, weights)
    for name, folder in zip(names, folders, strict=True):
        store = site_store(Site.open(folder), settings)
        held_out = torch.nonzero(store.tensors.fold < 0).flatten()
        scores = committee.score(store.tensors.images, held_out)
        found = answered[answered["site"] == name]
        assert len(found) == len(held_out) == 6
        for column, measurement in enumerate(scores.names):
            assert found[f"decision_{measurement}"].tolist() == scores.decision[:, column].tolist()
            assert (
                found[f"label_{measurement}"].tolist() == store.tensors.grades[measurement][held_out].tolist()
            )


def test_one_round_is_the_mean_of_the_sites_mean_gradients() -> None:
    campaign = synthetic()
    gradients = [clipped_sum(campaign.start, heads, max_norm=math.inf).total / 20 for heads in campaign.sites]
    expected = campaign.start - RATE * torch.stack(gradients).mean(0)
    found = private_heads.train(campaign, replace(OPEN, rounds=1))
    torch.testing.assert_close(found, expected.float())


@pytest.mark.parametrize(
    ("secure", "std"),
    [(False, SIGMA / (20 * math.sqrt(3))), (True, SIGMA * math.sqrt(3 / 2) / (20 * 3))],
)
def test_noise_is_that_of_each_site_or_of_shares_made_for_all_but_one(secure: bool, std: float) -> None:
    campaign = synthetic()
    private = replace(OPEN, noise_multiplier=SIGMA, secure=secure, rounds=1)
    clipped = [clipped_sum(campaign.start, heads, max_norm=1.0).total / 20 for heads in campaign.sites]
    signal = -RATE * torch.stack(clipped).mean(0)
    noise = torch.stack([private_heads.train(campaign, private) - signal for _ in range(30)]) / RATE
    assert noise.std().item() == pytest.approx(std, rel=0.08)
    assert abs(noise.mean().item()) < 5 * std / math.sqrt(noise.numel())
    assert not torch.equal(noise[0], noise[1])


def test_what_rounding_to_the_grid_would_change_is_nothing_beside_the_noise() -> None:
    campaign = synthetic(sites=5, patients=8)
    shared = PrivateSum(
        max_grad_norm=1.0, noise_multiplier=4.65, patients=8, sites=5, survivors=5, colluders=1,
        length=len(campaign.start),
    )  # fmt: skip
    heads = campaign.sites[0]
    each = [
        clipped_sum(
            campaign.start,
            [replace(some, rows=some.rows.of(torch.tensor([p]))) for some in heads],
            max_norm=1.0,
        ).total.numpy()
        for p in range(8)
    ]
    rounded = quantise(np.stack(each), norm=1.0, norm_steps=shared.norm_steps).sum(0) * shared.grid
    exact = clipped_sum(campaign.start, heads, max_norm=1.0).total.numpy()
    assert np.abs(rounded - exact).max() < 8 * shared.grid
    assert 8 * shared.grid < 0.01 * 4.65


def test_fewer_patients_are_the_first_of_each_site() -> None:
    campaign = synthetic(patients=6)
    fewer = campaign.first(2)
    for some, less in zip(campaign.sites, fewer.sites, strict=True):
        assert less[0].rows.patients == 2
        torch.testing.assert_close(less[0].rows.features, some[0].rows.features[:, :2])
    assert fewer.alone(1).sites == (fewer.sites[1],)


def test_the_rehearsal_has_other_phantoms_on_other_machines_than_the_private_cohort() -> None:
    private, rehearsal = (utility_study.phantoms(Size(), rehearsal=other) for other in (False, True))
    assert private.seed != rehearsal.seed
    machines = [
        {machine.profile for machine in disjoint.machines(p, seed=p.seed or 0)} for p in (private, rehearsal)
    ]
    assert machines[0].isdisjoint(machines[1])
    assert (private.sites, private.patients) == (5, 360)
    assert private.held_out * private.patients == pytest.approx(60)


def test_encoders_that_know_the_private_cohort_are_refused(tmp_path: Path) -> None:
    known = configured(tmp_path, seed=utility_study.PRIVATE_SEED)
    with pytest.raises(ConfigurationError, match="the seed 2022"):
        utility_study.studied(known, utility_study.phantoms(Size(), rehearsal=False))
    other = utility_study.studied(known, PhantomSettings(seed=5, sites=1, patients=4))
    assert other.network.weights_sha256


def measure(loss: float) -> Measure:
    return Measure(
        kappa=Estimate(value=0.8 - loss, low=0.7 - loss, high=0.9 - loss),
        loss=Estimate(value=loss, low=loss - 0.01, high=loss + 0.01),
        draws=5,
        draws_sd=0.01,
    )


def made(losses: dict[Cell, float]) -> Study:
    rows = tuple(
        CellResult(
            patients=cell.patients,
            sites=cell.sites,
            epsilon=cell.epsilon,
            secure=cell.secure,
            frozen=True,
            rounds=60,
            noise_multiplier=None if cell.epsilon is None else 30.0 / cell.epsilon,
            rate=1.0,
            scores={"hypertrophy": measure(loss), COMBINED: measure(loss / 2)},
        )
        for cell, loss in losses.items()
    )
    return Study(rows=rows, exams=90, patients=30, weights=144, delta=1e-5, encoders="0" * 64)


def test_the_table_is_what_plans_read() -> None:
    cells = [cell for cell in utility_study.cells(Size()) if cell.epsilon is not None]
    every = {cell: 2.0 / (cell.patients * (cell.epsilon or 1)) for cell in cells}
    found = utility.read(utility_view.table(made({Cell(patients=450): 0.0, **every})))
    assert len(found) == len(cells) == 21
    assert [row.kappa_loss for row in found] == pytest.approx(list(every.values()), abs=1e-4)
    assert len({row.run for row in found}) == len(found)
    own, secure, alone = (
        next(row.noise for row in found if row.run.endswith(f"n150{name}"))
        for name in ("-eps3-own", "-eps3-secure", "-1site-eps3-own")
    )
    assert own / alone == pytest.approx(math.sqrt(5))
    assert secure / alone == pytest.approx(math.sqrt(5 / 4))


def test_the_text_says_which_goals_are_met() -> None:
    losses = {
        Cell(patients=450): 0.0,
        Cell(patients=450, epsilon=8.0, secure=True): GOAL - 0.001,
        Cell(patients=450, epsilon=8.0): GOAL + 0.001,
        Cell(patients=150, sites=1, epsilon=3.0): 0.4,
    }
    text = "\n".join(utility_text.text(Record(study=Made.now(made(losses))), Before()))
    lines = [line for line in text.splitlines() if line.startswith("* Epsilon 8")]
    assert len(lines) == 2
    assert "with secure aggregation" in lines[0] and "**met**" in lines[0]
    assert "own noise" in lines[1] and "**not met**" in lines[1]
    assert "One site of 150 patients by itself" in text and "+0.400" in text
    chart = utility_view.chart(made(losses))
    assert all(key in chart for key in ("450 patients", "secure aggregation", "own noise", "goal, 0.05"))


def test_the_committed_report_is_what_the_committed_findings_say() -> None:
    folder = Path(__file__).parents[2] / "docs" / "results"
    record = records.read(folder)
    assert record is not None
    told = "\n".join(utility_text.text(record, records.before(folder))) + "\n"
    assert told == (folder / "private_utility.md").read_text(encoding="utf-8")
    assert utility_view.numbers(record.study.found) == (folder / "private_utility.csv").read_text(
        encoding="utf-8"
    )


def test_what_is_not_made_anew_stays_with_the_version_that_found_it(tmp_path: Path) -> None:
    found = made({Cell(patients=450): 0.0, Cell(patients=450, epsilon=8.0, secure=True): 0.01})
    old = Record(study=Made(found=found, version="0.1.0", phantoms=3, on="2026-01-31"))
    records.write(old, tmp_path)
    kept = records.read(tmp_path)
    assert kept == old
    (tmp_path / records.BEFORE).write_text(
        '[[section]]\ntitle = "By hand"\nversions = "phantoms of version 2"\ncolumns = ["a"]\nrows = [["7"]]\n'
    )
    utility_text.write(kept, tmp_path)
    report = (tmp_path / "private_utility.md").read_text()
    assert "synofed 0.1.0, phantoms of version 3, 2026-01-31" in report
    assert "## By hand\n\n*Not made by the command: phantoms of version 2.*\n\n| a |\n|---|\n| 7 |" in report
    (tmp_path / records.FOUND).write_text("{}")
    with pytest.raises(DataError, match="findings"):
        records.read(tmp_path)


def test_the_committed_table_is_the_committed_study() -> None:
    table = utility.read(files("common.privacy.planning").joinpath("utility.csv").read_text(encoding="utf-8"))
    study = pd.read_csv(Path(__file__).parents[2] / "docs" / "results" / "private_utility.csv")
    private = study[(study["encoder"] == "frozen") & study["epsilon"].notna()]
    worst = private.groupby(["patients", "sites", "epsilon", "secure_aggregation"])["loss"].max()
    assert sorted(row.kappa_loss for row in table) == pytest.approx(sorted(worst))
    assert {row.run.partition("/")[0] for row in table} == {"private_utility"}
    noises = [row.noise for row in table]
    assert min(noises) < 0.01
    assert max(noises) > 0.2
