"""A whole study under secure aggregation, and in both engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import synofed
from client.site.site import Site
from common.machine import network_files
from tests.marks import RAY
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder

SECURE = ["federation.secure.sites=3", "federation.secure.survivors=3", "federation.rounds=1"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for seed, name in enumerate(("north", "south", "west")):
        make_site_folder(
            tmp_path / "cohort" / name,
            name=name,
            patients=8,
            exams_per_patient=2,
            seed=seed,
            held_out_patients=2,
        )
    path = tmp_path / "small.toml"
    path.write_text(CONFIG.format(folder=tmp_path / "cohort"), encoding="utf-8")
    return path


@pytest.mark.soak
@pytest.mark.ci
def test_a_study_whose_sites_know_each_other_beside_baselines_that_sum_nothing(
    config: Path, tmp_path: Path
) -> None:
    short = [*SECURE, "rating.models=1", "rating.fusion=joint"]
    run = synofed.simulate(config, out=tmp_path / "secure", overrides=short).path
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "COMPLETE_ALL_SITES"
    for name in ("north", "south", "west"):
        site = Site.open(tmp_path / "cohort" / name)
        assert set(site.peers) == {"north", "south", "west"} - {name}
        assert not any((site.folder / "sums").rglob("*.json"))  # nothing is kept of a finished study
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert {record["system"] for record in rounds} > {"federated", "centralised"}


@pytest.mark.slow
@pytest.mark.soak
@RAY
def test_on_ray_it_is_the_same(config: Path, tmp_path: Path) -> None:
    short = [*SECURE, "evaluate.baselines=false", "rating.models=1", "rating.fusion=joint"]
    here = synofed.simulate(config, out=tmp_path / "here", overrides=short).path
    rays = synofed.simulate(config, out=tmp_path / "ray", overrides=[*short, "compute.engine=ray"]).path
    one, other = (
        {n.spec.name: n.weights.tobytes() for n in network_files.load_all(run / "networks")}
        for run in (here, rays)
    )
    assert one == other != {}
