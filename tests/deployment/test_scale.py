"""Ten authenticated sites and a network of 45 MB over one SuperLink: the centre does not grow with the rounds."""

import json
import os
from pathlib import Path

import pytest

from common.settings import parse
from server import submit
from tests.deployment.federation import Federation
from tests.deployment.test_faults import command, descendants

pytestmark = pytest.mark.soak
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
TABLE = os.environ.get("SYNOFED_SCALE_TABLE")


def memory_bytes(federation: Federation) -> dict[str, int]:
    """Resident memory of the centre's processes, by what they are."""
    found = {"superlink": 0, "campaign": 0, "proxy": 0}
    names = {"flower-superlink": "superlink", "flwr-serverapp": "campaign", "server.proxy": "proxy"}
    for pid in descendants(federation.processes["up"].pid):
        line = command(pid)
        for words, name in names.items():
            if words in line:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                found[name] = max(found[name], pages * os.sysconf("SC_PAGE_SIZE"))
    return found


def test_ten_sites_and_a_large_network(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path, SITES)
    peaks: dict[int, dict[str, int]] = {}
    try:
        federation.up()
        federation.wait(lambda: "the SuperLink answers" in federation.said("up"), what="a SuperLink")
        for name in SITES:
            federation.join(name)
        federation.wait(lambda: federation.online() == set(SITES), what="ten connected sites")
        run = submit.submit(federation.home, parse(CONFIG))

        def over() -> bool:
            rounds, now = len(run.rounds()), memory_bytes(federation)
            before = peaks.setdefault(rounds, now)
            peaks[rounds] = {name: max(before[name], size) for name, size in now.items()}
            return run.status().state in ("COMPLETE_ALL_SITES", "COMPLETE_SUBSET", "FAILED")

        federation.wait(over, what="the campaign's end")
    finally:
        federation.close()
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    if TABLE:
        Path(TABLE).write_text(json.dumps(peaks, indent=1), encoding="utf-8")
    first, last = sum(peaks[1].values()), sum(peaks[2].values())
    assert last < 1.25 * first + 100_000_000
