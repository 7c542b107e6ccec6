"""Ten authenticated sites and a network of 45 MB over one SuperLink: the centre does not grow with the rounds."""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.settings import parse
from server.runs import submit
from server.runs.runs import ENDED, Run
from tests.deployment.federation import Federation
from tests.deployment.processes import command, descendants

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
SITES = tuple(f"site-{number:02d}" for number in range(10))
CONFIG = """
name = "scale"
validity = "any"
[images.gs]
kind = "grey"
[measurements.hypertrophy]
grades = 2
images = ["gs"]
[network]
backbone = "resnet18"
image_px = 32
[rating]
fusion = "joint"
folds = 2
models = 1
replicas = 1
[training]
local_steps = 1
batch_size = 2
[federation]
rounds = 3
"""
LARGE = CONFIG.replace("grades = 2", "grades = 6").replace("rounds = 3", "rounds = 1")
"""Five networks of 45 MB in one group, 224 MB per message."""
PATIENCE_S = 1500.0
TABLE = os.environ.get("SYNOFED_SCALE_TABLE")


def memory_bytes(federation: Federation) -> dict[str, int]:
    """Resident memory of what runs at the centre and at the sites, the largest of each kind."""
    names = {
        "waiting_superlink": "SuperLink",
        "flwr-serverapp": "campaign",
        "server.service.proxy": "proxy",
        "guarded_supernode node": "SuperNode",
        "forkserver": "task",
    }
    found = dict.fromkeys(names.values(), 0)
    for process in federation.processes.values():
        for pid in descendants(process.pid):
            line = command(pid)
            for words, name in names.items():
                with suppress(OSError):
                    if words in line:
                        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                        found[name] = max(found[name], pages * os.sysconf("SC_PAGE_SIZE"))
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """A campaign that ran through, and the largest memory while each round ran, by rounds done before."""

    run: Run
    peaks: dict[int, dict[str, int]]


def measured(folder: Path, names: Sequence[str], config: str) -> Measured:
    federation = Federation.make(folder, names, patients=12)
    peaks: dict[int, dict[str, int]] = {}
    try:
        federation.up()
        federation.wait(lambda: "the SuperLink answers" in federation.said("up"), what="a SuperLink")
        for name in names:
            federation.join(name)
        federation.wait(lambda: federation.online() == set(names), what="connected sites")
        run = submit.submit(federation.home, parse(config))

        def over() -> bool:
            rounds, now = len(run.rounds()), memory_bytes(federation)
            before = peaks.setdefault(rounds, now)
            peaks[rounds] = {name: max(before[name], size) for name, size in now.items()}
            return run.status().state in ENDED

        deadline = time.monotonic() + PATIENCE_S
        while not over():
            assert time.monotonic() < deadline, run.log.read_text()
            time.sleep(0.2)
    finally:
        federation.close()
    if TABLE:
        with Path(TABLE).open("a", encoding="utf-8") as file:
            in_mb = {rounds: {n: size // 10**6 for n, size in of.items()} for rounds, of in peaks.items()}
            file.write(json.dumps({"sites": len(names), "peaks_mb": in_mb}) + "\n")
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    return Measured(run, peaks)


def test_ten_sites_and_a_large_network(tmp_path: Path) -> None:
    peaks = measured(tmp_path, SITES, CONFIG).peaks
    centre = [sum(peaks[rounds][name] for name in ("SuperLink", "campaign", "proxy")) for rounds in (1, 2)]
    assert centre[1] < 1.25 * centre[0] + 100_000_000


def test_a_group_of_224_mb_passes_in_bounded_memory(tmp_path: Path) -> None:
    peaks = measured(tmp_path, SITES[:1], LARGE).peaks
    largest = {name: max(of[name] for of in peaks.values()) for name in peaks[0]}
    assert largest["proxy"] < 200_000_000
    assert all(size < 12 * 224_000_000 for size in largest.values()), largest
