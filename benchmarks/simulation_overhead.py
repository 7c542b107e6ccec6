"""Time of the federated in-process simulation over the same work in a plain PyTorch loop, as JSON.

    python benchmarks/simulation_overhead.py [--rounds 3] [--models 1] [--repeats 5] [--workers 1 2]
    python benchmarks/simulation_overhead.py --config benchmarks/peers/work.toml        # one ResNet-18

The federation is the real one: Flower messages, spool, aggregation, journal with fsync, histograms of
validation scores, networks' files. The plain loop trains the same networks on the same batches and scores the
same exams with the same weights; ``without_scoring`` leaves the scoring out of the plain loop alone.
Repetitions take turns. CPU time counts all threads of the process and feels other work on the machine less
than wall time does. ``peak_mb`` is the most resident memory of a process of its own that runs one side once.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from shared import plain_loop, sites
from shared.processes import peak_bytes

from common.settings import Settings
from server.rounds.journal import Journal
from simulation.engine import engines
from simulation.engine.grid import Workers

GOAL = 1.05
SIDES = ("federated", "plain", "plain_without_scoring")


def federated(folders: Sequence[Path], settings: Settings, *, out: Path, workers: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with Workers(("cpu",) * workers, threads=1) as pool:
        engines.run_campaign(settings, folders, folder=out, observer=lambda event: None, workers=pool)


def final_weights(out: Path, settings: Settings) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for group in sorted((out / "journal").iterdir()):
        journal = Journal(out / "journal", group.name)
        entry = journal.last(plan_hash=settings.plan_hash())
        assert entry is not None
        found = journal.weights(entry.server_round)
        weights |= {name: torch.from_numpy(values) for name, values in found.items()}
    return weights


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def plain(
    folders: Sequence[Path], settings: Settings, *, workers: int, scoring: bool
) -> dict[str, torch.Tensor]:
    opened = sites.opened(folders, settings)
    return plain_loop.train(opened, settings, workers=workers, scoring=scoring)


def run(side: str, folders: Sequence[Path], settings: Settings, *, out: Path, workers: int) -> None:
    """One side once; only the federation writes into the folder."""
    if side == "federated":
        federated(folders, settings, out=out, workers=workers)
    else:
        plain(folders, settings, workers=workers, scoring=side == "plain")


def _peak_mb(side: str, folders: Sequence[Path], settings: Settings, out: Path, workers: int) -> int:
    torch.set_num_threads(1)
    run(side, folders, settings, out=out, workers=workers)
    return round(peak_bytes() / 2**20)


def compare(folders: Sequence[Path], settings: Settings, *, workers: int, repeats: int) -> dict[str, object]:
    samples: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run("federated", folders, settings, out=out / "warm", workers=workers)
        for repeat in range(repeats):
            turn = repeat % len(SIDES)
            for side in SIDES[turn:] + SIDES[:turn]:
                where = out / f"{side}-{repeat}"
                samples[side].append(timed(partial(run, side, folders, settings, out=where, workers=workers)))
        peaks = {}
        for side in SIDES:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                job = alone.submit(_peak_mb, side, folders, settings, out / f"{side}-alone", workers)
                peaks[side] = job.result()
    return {"workers": workers} | _ratios(samples, settings.federation.rounds) | {"peak_mb": peaks}


def _ratios(samples: dict[str, list[tuple[float, float]]], rounds: int) -> dict[str, object]:
    def ratio(clock: int, below: str) -> float:
        pairs = zip(samples["federated"], samples[below], strict=True)
        return round(statistics.median(ours[clock] / theirs[clock] for ours, theirs in pairs), 3)

    return {
        "ratio_wall": ratio(0, "plain"),
        "ratio_cpu": ratio(1, "plain"),
        "ratio_wall_without_scoring": ratio(0, "plain_without_scoring"),
        "ratio_cpu_without_scoring": ratio(1, "plain_without_scoring"),
        "wall_s": {side: [round(wall, 3) for wall, _ in taken] for side, taken in samples.items()},
        "cpu_s": {side: [round(cpu, 3) for _, cpu in taken] for side, taken in samples.items()},
        "cpu_s_a_round": {
            side: round(statistics.median(cpu for _, cpu in taken) / rounds, 3)
            for side, taken in samples.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--set", action="append", default=[], help="override of the plan")
    parser.add_argument("--config", type=Path, default=plain_loop.QUICKSTART, help="of the plan")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = plain_loop.planned(given.config, rounds=given.rounds, models=given.models, overrides=given.set)
    with tempfile.TemporaryDirectory() as folder:
        folders = sites.make(Path(folder), settings)
        measured = [
            compare(folders, settings, workers=workers, repeats=given.repeats) for workers in given.workers
        ]
        federated(folders, settings, out=Path(folder) / "run", workers=1)
        weights = plain(folders, settings, workers=1, scoring=True)
        difference = plain_loop.relative_difference(
            final_weights(Path(folder) / "run", settings), weights, settings
        )
    result = {
        "goal_ratio": GOAL,
        "measured": measured,
        "sites": len(folders),
        "backbone": settings.network.backbone,
        "networks": len(weights),
        "rounds": settings.federation.rounds,
        "local_steps": settings.training.local_steps,
        "batch_size": settings.training.batch_size,
        "relative_difference_of_final_weights": round(difference, 6),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
