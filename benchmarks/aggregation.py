"""Peak memory and rate of the centre's aggregation at 2, 20 and 200 sites of one 45 MB network, as JSON.

    python benchmarks/aggregation.py [--sites 2 20 200] [--parameters 11200000] [--folder DIR]

Each size runs in a process of its own: replies are made one at a time and handed to
``server.rounds.rounds.GroupRounds`` as they would arrive, which checks, spools, averages and journals them.
``increase_mb`` is the process's peak above its peak after imports. ``reduce`` is the streaming mean over the
spooled replies alone, read back from disk or page cache, beside a plain numpy ``a += b`` over as many bytes in
memory; the two take turns.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from shared.processes import peak_bytes

from common.aggregation.algorithms import algorithm
from common.aggregation.mean import Weighted, weighted_mean
from common.messages import NetworkReply, TrainReply
from common.methods.groups import Group
from common.networks.layout import Layout
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings, parse
from server.rounds.journal import Journal
from server.rounds.rounds import GroupRounds
from server.rounds.spool import Spool, SpooledUpdate
from server.rounds.weights import StartWeights

NAME = "network"
CONFIGURATION = """\
name = "aggregation"
images.gs.kind = "grey"
measurements.grade = { grades = 2, images = ["gs"] }
"""


class KeptSpool(Spool):
    """A spool that keeps its files after the round, so that they can be reduced once more."""

    def __init__(self, folder: Path, group: str) -> None:
        super().__init__(folder, group)
        self.spooled: list[SpooledUpdate] = []

    def write(
        self, site_index: int, arrays: Mapping[str, Mapping[str, np.ndarray]]
    ) -> dict[str, dict[str, SpooledUpdate]]:
        written = super().write(site_index, arrays)
        self.spooled.append(written["update"][NAME])
        return written

    def clear(self) -> None:
        if not self._folder.exists():
            super().clear()


class Zeros(StartWeights):
    """Start weights of a network that is not built."""

    def __init__(self, parameters: int) -> None:
        self._parameters = parameters

    def start(self, spec: NetworkSpec) -> np.ndarray:
        return np.zeros(self._parameters, dtype=np.float32)

    def frozen(self, spec: NetworkSpec) -> dict[str, np.ndarray]:
        return {}


def rounds(folder: Path, settings: Settings, *, spool: Spool, sites: int, parameters: int) -> GroupRounds:
    spec = NetworkSpec(name=NAME, images=("gs",), target=Target(measurement="grade"), fold=0)
    layout = Layout(entries=(("weight", (parameters,)),), parameters=1)
    group = Group(name="g", stage="s", networks=(spec,), layouts={NAME: layout})
    return GroupRounds(
        group,
        settings=settings,
        campaign="benchmark",
        sites=lambda: [f"site-{index:03d}" for index in range(sites)],
        start=Zeros(parameters),
        algorithm=algorithm(settings.federation),
        journal=Journal(folder / "journal", "g"),
        spool=spool,
    )


def reply(site: str, request_id: str, rng: np.random.Generator, parameters: int) -> TrainReply:
    update = rng.standard_normal(parameters, dtype=np.float32)
    network = NetworkReply(update=update, num_examples=int(rng.integers(50, 200)), loss=0.5, histograms=None)
    return TrainReply(site=site, request_id=request_id, networks={NAME: network})


def measure(folder: Path, *, sites: int, parameters: int) -> dict[str, float]:
    """One round of one network, in this process."""
    settings = parse(CONFIGURATION)
    spool = KeptSpool(folder / "spool", "g")
    group = rounds(folder, settings, spool=spool, sites=sites, parameters=parameters)
    imported = peak_bytes()
    request = group.request()
    rng = np.random.default_rng(0)
    accepting = 0.0
    for index in range(sites):
        answer = reply(f"site-{index:03d}", request.request_id, rng, parameters)
        start = time.perf_counter()
        group.accept(answer.site, answer)
        accepting += time.perf_counter() - start
        del answer
    arrived = peak_bytes()
    start = time.perf_counter()
    record = group.close()
    closing = time.perf_counter() - start
    peak = peak_bytes()
    assert len(record.participants) == sites, record
    return {
        "sites": sites,
        "increase_mb": round((peak - imported) / 1e6, 1),
        "increase_before_aggregation_mb": round((arrived - imported) / 1e6, 1),
        "imports_mb": round(imported / 1e6, 1),
        "accept_gb_per_s": round(4e-9 * sites * parameters / accepting, 3),
        "close_s": round(closing, 3),
    } | reduce_rates(spool.spooled, parameters)


def reduce_rates(spooled: Sequence[SpooledUpdate], parameters: int) -> dict[str, float]:
    """Rates of the streaming mean and of a plain add, medians of three turns, by wall and by CPU time."""
    weighted = [Weighted(source=update, num_examples=100) for update in spooled]
    total, update = np.zeros(parameters, dtype=np.float32), np.ones(parameters, dtype=np.float32)

    def add() -> None:
        for _ in spooled:
            np.add(total, update, out=total)

    turns = [(timed(lambda: weighted_mean(weighted, size=parameters)), timed(add)) for _ in range(3)]
    (mean_s, mean_cpu_s), (add_s, add_cpu_s) = np.median(turns, axis=0)
    gigabytes = 4e-9 * len(spooled) * parameters
    return {
        "reduce_gb_per_s": round(gigabytes / mean_s, 3),
        "reduce_gb_per_cpu_s": round(gigabytes / mean_cpu_s, 3),
        "numpy_add_gb_per_s": round(gigabytes / add_s, 3),
        "numpy_add_gb_per_cpu_s": round(gigabytes / add_cpu_s, 3),
        "ratio_to_numpy_add": round(add_s / mean_s, 3),
        "ratio_to_numpy_add_cpu": round(add_cpu_s / mean_cpu_s, 3),
    }


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_fresh_process(folder: Path, *, sites: int, parameters: int) -> dict[str, float]:
    needed, free = 4 * sites * parameters + 3 * 4 * parameters, shutil.disk_usage(folder).free
    if free < 1.05 * needed:
        sys.exit(
            f"Expected {needed / 1e9:.1f} GB free in {folder} for {sites} replies, got {free / 1e9:.1f} GB: "
            f"give another folder with --folder, or fewer sites with --sites"
        )
    with tempfile.TemporaryDirectory(dir=folder) as own:
        arguments = ["--child", own, "--sites", str(sites), "--parameters", str(parameters)]
        done = subprocess.run(
            [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True
        )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 20, 200])
    parser.add_argument("--parameters", type=int, default=11_200_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="holds the spool")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(measure(given.child, sites=given.sites[0], parameters=given.parameters)))
        return
    measured = [in_fresh_process(given.folder, sites=n, parameters=given.parameters) for n in given.sites]
    peaks = [size["increase_mb"] for size in measured]
    result = {
        "network_mb": round(4e-6 * given.parameters, 1),
        "goal_spread": 0.10,
        "spread": round(max(peaks) / min(peaks) - 1, 4),
        "measured": measured,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
