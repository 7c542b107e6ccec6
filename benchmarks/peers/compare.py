"""The same federated work in synofed and in its peers, over a plain PyTorch loop: time, processor time, memory.

    python benchmarks/peers/compare.py [OUT] [--rounds 3] [--repeats 3] [--sides plain synofed ...]

The work is that of ``work.toml``: ResNet-18 at 64 px, 4 sites x ROUNDS rounds x 4 steps of 16, FedAvg weighted by
exams, no evaluation, the same start, pictures, batches and augmentation for all. Each side is a command in the
environment that has it (``make bench-peers`` makes them), and takes its turn; whatever it starts counts: imports,
Ray, servers, clean-up.

* plain and pfl-research train with one thread, the others two clients of one thread at once: compare ``cpu_s``.
* ``peak_mb``: most memory of all processes together, each shared page once (Pss).
* ``start_up_s``: from the command to its first training.
* ``cpu_a_round_s``: from the second round's begin to the last one's, without starting and ending.
* ``over_plain``: the same, over the plain loop's of the same turn; medians over the turns.
* ``difference_of_weights``: final weights' distance from the plain loop's, over what training moved them. Rounding
  grows by Adam; other batches, or another rate, would give a value near one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import work
from shared import facts, processes, sites

from common import settings as configuration

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 900.0
FIGURES = ("wall_s", "cpu_s", "peak_mb", "start_up_s", "cpu_a_round_s")


@dataclass(frozen=True, slots=True)
class Side:
    """A command, and the package whose version is told."""

    package: str
    python: Path
    script: str
    arguments: tuple[str, ...] = ()


def _environment(name: str) -> Path:
    return ROOT / f".venv-{name}" / "bin" / "python"


OURS = Path(sys.executable)
SIDES = {
    "plain": Side("torch", OURS, "with_nothing.py"),
    "synofed": Side("synofed", OURS, "with_synofed.py"),
    "synofed_ray": Side("synofed", OURS, "with_synofed.py", ("--set", "compute.engine=ray")),
    "flower": Side("flwr", OURS, "with_flower.py"),
    "pfl": Side("pfl", _environment("pfl"), "with_pfl.py"),
    "nvflare": Side("nvflare", _environment("nvflare"), "with_nvflare.py"),
}


def turn(side: Side, folder: Path, out: Path) -> tuple[dict[str, float], work.Work]:
    """One run of a side: its figures, and where its weights are.

    Raises:
        RuntimeError: with what it said last.
    """
    if not side.python.exists():
        raise RuntimeError(f"no environment {side.python.parents[1].name}: make bench-peers makes it")
    out.mkdir()
    command = [side.python, HERE / side.script, folder, out, *side.arguments]
    cost = processes.measured(command, log=out / "log.txt", cwd=out, limit_s=LIMIT_S)
    done = work.Work(folder, out)
    _, begun = done.result()
    rounds = done.settings.federation.rounds
    figures = {
        "wall_s": cost.wall_s,
        "cpu_s": cost.cpu_s,
        "peak_mb": cost.peak_mb,
        "start_up_s": begun[1] - cost.series[0][0],
    }
    if rounds > 2:
        spent = cost.cpu_at(begun[rounds]) - cost.cpu_at(begun[2])
        figures["cpu_a_round_s"] = spent / (rounds - 2)
    return figures, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="file for the JSON, printed otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--set", action="append", default=[], help="override of work.toml")
    given = parser.parse_args()
    # what the sides import, in whatever process they import it; one thread a worker everywhere
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (HERE, HERE.parent, ROOT)))
    os.environ |= {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112 (Ray's spelling; for a busy machine)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), given)
    text = json.dumps(result, indent=1) + "\n"
    if given.out is None:
        print(text, end="")
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text, encoding="utf-8")


def compare(folder: Path, given: argparse.Namespace) -> dict[str, object]:
    overrides = [f"federation.rounds={given.rounds}", *given.set]
    settings = configuration.load(work.CONFIG, overrides=overrides)
    opened = sites.opened(sites.make(folder / "sites", settings, histograms=False), settings)
    work.save(folder, overrides=overrides, sites=opened)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in given.sides}
    failed: dict[str, str] = {}
    last: dict[str, work.Work] = {}
    before = facts.load()
    for repeat in range(given.repeats):
        shift = repeat % len(given.sides)
        for name in given.sides[shift:] + given.sides[:shift]:
            if name in failed:
                continue
            try:
                figures, last[name] = turn(SIDES[name], folder, folder / f"{name}-{repeat}")
            except RuntimeError as error:
                failed[name] = str(error)
                print(name, error, file=sys.stderr, flush=True)
                continue
            turns[name].append(figures)
            print(name, {key: round(value, 2) for key, value in figures.items()}, file=sys.stderr, flush=True)
    training = settings.training
    return {
        "command": facts.command(),
        **facts.machine(),
        "load_before_and_after": [before, facts.load()],
        "work": {
            "backbone": settings.network.backbone,
            "image_px": settings.network.image_px,
            "sites": len(opened),
            "rounds": given.rounds,
            "local_steps": training.local_steps,
            "batch_size": training.batch_size,
        },
        "sides": {
            name: {"failed": failed[name]}
            if name in failed
            else _side(SIDES[name], turns[name], turns.get("plain", []), last[name], last.get("plain"))
            for name in given.sides
        },
    }


def _side(
    side: Side,
    taken: Sequence[dict[str, float]],
    plain: Sequence[dict[str, float]],
    done: work.Work,
    reference: work.Work | None,
) -> dict[str, object]:
    def median(values: Sequence[float]) -> float:
        return round(statistics.median(values), 3)

    figures = [figure for figure in FIGURES if figure in taken[0]]
    pairs = list(zip(taken, plain, strict=True)) if len(plain) == len(taken) else []
    return {
        "version": facts.version(side.python, side.package),
        **{figure: median([one[figure] for one in taken]) for figure in figures},
        "over_plain": {
            figure: median([one[figure] / other[figure] for one, other in pairs])
            for figure in figures
            if pairs
        },
        "difference_of_weights": None if reference is None else round(_difference(done, reference), 5),
        "turns": [{figure: round(value, 2) for figure, value in one.items()} for one in taken],
    }


def _difference(done: work.Work, reference: work.Work) -> float:
    (ours, _), (theirs, _), start = done.result(), reference.result(), done.start()
    return float((ours - theirs).norm() / (theirs - start).norm())


if __name__ == "__main__":
    main()
