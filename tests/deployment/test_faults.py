"""A real federation whose processes are killed and whose link is cut ends with the bits of an undisturbed one."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from server import file_lock, submit
from server.runs import Run
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation, simulated_sites
from tests.deployment.test_end_to_end import configured, in_process, networks

pytestmark = pytest.mark.slow


def kill_campaign(federation: Federation, run: Run) -> None:
    holder = file_lock.holder(run.path)
    assert holder is not None
    os.kill(holder, signal.SIGKILL)


def kill_superlink(federation: Federation, run: Run) -> None:
    del run
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(federation.processes["up"].pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    (line,) = [line for line in listed if "patient_superlink" in line]
    os.kill(int(line.split()[0]), signal.SIGKILL)


def kill_centre(federation: Federation, run: Run) -> None:
    del run
    federation.end("up", signal.SIGKILL)
    federation.up()


def kill_site(federation: Federation, run: Run) -> None:
    del run
    federation.end(SITES[1], signal.SIGKILL)
    federation.join(SITES[1])


@pytest.mark.timeout(900)
def test_a_campaign_outlives_its_process_the_superlink_the_centre_and_a_site(
    federation: Federation, tmp_path: Path
) -> None:
    settings = configured("outlives", rounds=6)
    sites = simulated_sites(federation, SITES, tmp_path)
    run = submit.submit(federation.home, settings)
    for done, kill in enumerate((kill_site, kill_campaign, kill_superlink, kill_centre), start=1):
        federation.wait(lambda done=done: len(run.rounds()) >= done, what=f"round {done}")  # type: ignore[misc]
        kill(federation, run)
    federation.ended(run)
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    alone = in_process(settings, sites, tmp_path / "alone")
    deployed, simulated = networks(run.path), networks(alone)
    assert deployed.keys() == simulated.keys()
    for name, tensors in simulated.items():
        for key, tensor in tensors.items():
            assert torch.equal(deployed[name][key], tensor), (name, key)
    assert run.log.read_text().count("the campaign's process starts") >= 2
