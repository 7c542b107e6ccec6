"""Time of the federated in-process simulation over the same work in a plain PyTorch loop, as JSON.

    python benchmarks/simulation_overhead.py [--rounds 3] [--models 1] [--repeats 5] [--workers 1 2]

The federation is the real one: Flower messages, spool, aggregation, journal with fsync, histograms of
validation scores, networks' files. The plain loop trains the same networks on the same batches and scores the
same exams with the same weights; ``without_scoring`` leaves the scoring out of the plain loop alone.
Repetitions take turns. CPU time counts all threads of the process and feels other work on the machine less
than wall time does.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from shared import plain_loop

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


def compare(folders: Sequence[Path], settings: Settings, *, workers: int, repeats: int) -> dict[str, object]:
    samples: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        federated(folders, settings, out=Path(folder) / "warm", workers=workers)
        for repeat in range(repeats):
            out = Path(folder) / str(repeat)
            run = {
                "federated": lambda out=out: federated(folders, settings, out=out, workers=workers),
                "plain": lambda: plain_loop.train(folders, settings, workers=workers, scoring=True),
                "plain_without_scoring": lambda: plain_loop.train(
                    folders, settings, workers=workers, scoring=False
                ),
            }
            turn = repeat % len(SIDES)
            for side in SIDES[turn:] + SIDES[:turn]:
                samples[side].append(timed(run[side]))
    return {"workers": workers} | _ratios(samples)


def _ratios(samples: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
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
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--set", action="append", default=[], help="override of configs/quickstart.toml")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = plain_loop.quickstart(rounds=given.rounds, models=given.models, overrides=given.set)
    with tempfile.TemporaryDirectory() as folder:
        folders = plain_loop.make_sites(Path(folder), settings)
        measured = [
            compare(folders, settings, workers=workers, repeats=given.repeats) for workers in given.workers
        ]
        federated(folders, settings, out=Path(folder) / "run", workers=1)
        plain = plain_loop.train(folders, settings, workers=1, scoring=True)
        difference = plain_loop.relative_difference(
            final_weights(Path(folder) / "run", settings), plain, settings
        )
    result = {
        "goal_ratio": GOAL,
        "measured": measured,
        "sites": len(folders),
        "networks": len(plain),
        "rounds": settings.federation.rounds,
        "local_steps": settings.training.local_steps,
        "batch_size": settings.training.batch_size,
        "relative_difference_of_final_weights": round(difference, 6),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
