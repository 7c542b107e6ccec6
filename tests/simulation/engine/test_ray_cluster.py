"""Ray clusters: of two nodes the same bits as of one machine, and what is wrong with one is said before training."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
from ray.cluster_utils import Cluster

import synofed
from common.errors import CampaignError, ConfigurationError, DataError
from common.machine import network_files
from common.sections.cohort import PhantomSettings
from common.sections.compute import ComputeSettings, RaySettings
from common.version import VERSION
from simulation.cohorts import cohort
from simulation.engine import engines, ray_engine
from simulation.engine.places import Place, in_order
from tests.marks import RAY
from tests.simulation.runs.test_simulate import CONFIG

HERE = ["federation.rounds=1", "federation.group_bytes=50_000_000", "rating.models=1", "evaluate.heatmaps=2"]
pytestmark = [pytest.mark.soak, RAY]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    small = PhantomSettings(sites=2, patients=20, exams_per_patient=2, image_px=64, unseen_device=False)
    cohort.make(small, seed=1, out=folder / "cohort", workers=1)
    (folder / "small.toml").write_text(CONFIG.format(folder=folder / "cohort"), encoding="utf-8")
    return folder / "small.toml"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes with a core each, neither of which could train both sites at once."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, include_dashboard=False)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def networks(run: synofed.Run) -> dict[str, np.ndarray]:
    """Of the federation and of each baseline."""
    folders = [run.path, *sorted((run.path / "baselines").iterdir())]
    return {
        f"{folder.name if folder != run.path else ''}/{network.spec.name}": np.asarray(network.weights)
        for folder in folders
        for network in network_files.load_all(folder / "networks")
    }


def at(address: str) -> list[str]:
    return [*HERE, "compute.engine=ray", f"compute.ray.address={address}"]


def test_two_nodes_give_the_bits_of_one_machine(
    config: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = synofed.simulate(config, out=tmp_path / "here", overrides=HERE)
    monkeypatch.chdir(tmp_path)
    there = synofed.simulate(config, out="there", overrides=at(address))
    assert not ray.is_initialized()
    one, other = networks(here), networks(there)
    assert list(one) == list(other)
    for name, weights in one.items():
        np.testing.assert_array_equal(weights, other[name])
    for name in ("predictions.parquet", "predictions_baselines.parquet"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(here.path / name), pd.read_parquet(there.path / name), check_exact=True
        )
    measured, same = metrics(here), metrics(there)
    assert measured == same
    assert measured["heatmaps"]
    drawn = sorted((here.path / "figures" / "heatmaps").glob("*-heatmap.png"))
    assert drawn
    for path in drawn:
        assert path.read_bytes() == (there.path / path.relative_to(here.path)).read_bytes()
    assert not list(config.parent.glob("cohort/.nodes-*"))
    assert nodes_that_worked(there) == 2


def metrics(run: synofed.Run) -> dict[str, Any]:
    """All but how long the heatmaps took."""
    found = dict(run.metrics())
    return found | {"heatmaps": {**found["heatmaps"], "seconds": None}}


def nodes_that_worked(run: synofed.Run) -> int:
    """As the run says of its baselines, scores and heatmaps."""
    said = re.findall(
        "^Pieces of work on nodes of Ray: (.*)", (run.path / "log.txt").read_text(), re.MULTILINE
    )
    return len(said[0].split(", "))


def refuses(place: Place) -> None:
    raise DataError(f"Expected a store on {place.device}, got none")


def breaks(place: Place) -> None:
    raise ValueError(f"patient 7 on {place.device}")


def dies_once(place: Place, mark: Path) -> str:
    if mark.exists():
        return place.device
    mark.touch()
    os._exit(1)


def twice(place: Place, number: int) -> int:
    return 2 * number


def test_a_piece_that_dies_is_run_again_and_its_errors_are_ours(address: str, tmp_path: Path) -> None:
    compute = ComputeSettings(engine="ray", ray=RaySettings(address=address))
    with engines.places(compute, [tmp_path]) as places:
        died = places.submit(dies_once, tmp_path / "mark")
        with pytest.raises(DataError, match=r"^Expected a store on cpu, got none$"):
            places.submit(refuses).result()
        with pytest.raises(CampaignError, match=r"broke on a node of the Ray cluster: ValueError") as error:
            places.submit(breaks).result()
        assert "patient" not in str(error.value)
        assert died.result() == "cpu"
        assert in_order([places.submit(twice, number) for number in range(5)]) == [0, 2, 4, 6, 8]
    assert not ray.is_initialized()


def test_a_site_too_large_for_every_node_is_said_with_what_they_have(
    config: Path, address: str, tmp_path: Path
) -> None:
    overrides = [*at(address), "compute.threads=2"]
    with pytest.raises(
        ConfigurationError, match=r"with 2 CPUs .* got nodes with 1 CPUs, 0 GPUs; 1 CPUs, 0 GPUs"
    ):
        synofed.simulate(config, out=tmp_path / "run", overrides=overrides)


def test_no_cluster_is_said_with_what_to_do(config: Path, tmp_path: Path) -> None:
    overrides = at("127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r'compute.ray.address = "127.0.0.1:1".*ray start --head'):
        synofed.simulate(config, out=tmp_path / "run", overrides=overrides)


def test_a_node_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "free").touch()
    assert ray_engine._problem("0", [], []) == f"has version {VERSION}, here it is 0"
    assert "does not see" in ray_engine._problem(VERSION, [str(tmp_path / "gone")], [])
    assert "does not see who holds a lock" in ray_engine._problem(
        VERSION, [str(tmp_path)], [str(tmp_path / "free")]
    )
