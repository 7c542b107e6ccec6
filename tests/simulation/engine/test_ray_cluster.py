"""Ray clusters: of two nodes the same bits as of one machine, and what is wrong with one is said before training."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

import synofed
from common.errors import ConfigurationError
from common.machine import network_files
from common.version import VERSION
from simulation.engine import ray_engine
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder

SHORT = ["federation.rounds=2", "compute.engine=ray"]
pytestmark = [
    pytest.mark.soak,
    # of Ray's own processes and logs
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    for seed, name in enumerate(("north", "south")):
        make_site_folder(folder / "cohort" / name, name=name, patients=9, seed=seed, held_out_patients=3)
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


def test_two_nodes_give_the_bits_of_one_machine(config: Path, address: str, tmp_path: Path) -> None:
    here = synofed.simulate(config, out=tmp_path / "here", overrides=SHORT[:1])
    there = synofed.simulate(
        config, out=tmp_path / "there", overrides=[*SHORT, f"compute.ray.address={address}"]
    )
    assert not ray.is_initialized()
    one, other = networks(here), networks(there)
    assert list(one) == list(other)
    for name, weights in one.items():
        np.testing.assert_array_equal(weights, other[name])
    assert not list(config.parent.glob("cohort/.nodes-*"))
    assert nodes_that_worked(there) == 2


def nodes_that_worked(run: synofed.Run) -> int:
    """As the run says."""
    (line,) = re.findall(
        "^Pieces of work on nodes of Ray: (.*)", (run.path / "log.txt").read_text(), re.MULTILINE
    )
    return len(line.split(", "))


def test_a_site_too_large_for_every_node_is_said_with_what_they_have(
    config: Path, address: str, tmp_path: Path
) -> None:
    overrides = [*SHORT, f"compute.ray.address={address}", "compute.threads=2"]
    with pytest.raises(
        ConfigurationError, match=r"with 2 CPUs .* got nodes with 1 CPUs, 0 GPUs; 1 CPUs, 0 GPUs"
    ):
        synofed.simulate(config, out=tmp_path / "run", overrides=overrides)


def test_no_cluster_is_said_with_what_to_do(config: Path, tmp_path: Path) -> None:
    overrides = [*SHORT, "compute.ray.address=127.0.0.1:1"]
    with pytest.raises(ConfigurationError, match=r'compute.ray.address = "127.0.0.1:1".*ray start --head'):
        synofed.simulate(config, out=tmp_path / "run", overrides=overrides)


def test_a_node_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "free").touch()
    assert ray_engine._problem("0", [], []) == f"has version {VERSION}, here it is 0"
    assert "does not see" in ray_engine._problem(VERSION, [str(tmp_path / "gone")], [])
    assert "does not see who holds a lock" in ray_engine._problem(
        VERSION, [str(tmp_path)], [str(tmp_path / "free")]
    )
