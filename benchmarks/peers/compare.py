"""The same federated work in synofed and in its peers, over a plain PyTorch loop: time, processor time, memory.

    python benchmarks/peers/compare.py runs/peers.json [--rounds 3] [--repeats 3] [--sides plain synofed ...]

The work is that of ``work.toml``: ResNet-18 at 64 px, 4 sites x ROUNDS rounds x 4 steps of 16, FedAvg weighted by
exams, no evaluation, the same start, pictures, batches and augmentation for all. Each side is a command in the
environment that has it (``make bench-peers`` makes them), and takes its turn; whatever it starts counts: imports,
Ray, servers, clean-up.

* plain and pfl-research train with one thread, the others two clients of one thread at once: compare ``cpu_s``.
* ``peak_mb``: most memory of all processes together, each shared page once (Pss).
* ``start_up_s``: from the command to its first training.
* ``cpu_a_round_s``: from the second round's begin to the last one's, without starting and ending.
* ``over_plain``: the same, over the plain loop's of the same turn; medians over the turns.
* ``difference_of_weights``: final parameters' distance from the plain loop's, over what training moved them: rounding
  alone, where all do the same; other batches, or another rate, would give a value near one. Running statistics of
  norms are left out: pfl-research does not average them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import work
from shared import facts, processes, sites

from common import settings as configuration
from common.networks.build import layout

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 900.0


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
    command: list[str | Path] = [side.python, HERE / side.script, folder, out, *side.arguments]
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
    parser.add_argument("out", type=Path, help="file for the JSON")
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
        compare(Path(folder), given)


def compare(folder: Path, given: argparse.Namespace) -> None:
    """Let the sides take turns; the file is written anew after each."""
    overrides = [f"federation.rounds={given.rounds}", *given.set]
    settings = configuration.load(work.CONFIG, overrides=overrides)
    opened = sites.opened(sites.make(folder / "sites", settings, histograms=False), settings)
    work.save(folder, overrides=overrides, sites=opened)
    training = settings.training
    result: dict[str, object] = {
        "command": facts.command(),
        **facts.machine(),
        "work": {
            "backbone": settings.network.backbone,
            "image_px": settings.network.image_px,
            "sites": len(opened),
            "rounds": given.rounds,
            "local_steps": training.local_steps,
            "batch_size": training.batch_size,
            "optimiser": training.optimiser,
            "learning_rate": training.learning_rate,
        },
    }
    taken = {name: Turns(SIDES[name]) for name in given.sides}
    before = facts.load()
    for repeat in range(given.repeats):
        shift = repeat % len(given.sides)
        for name in given.sides[shift:] + given.sides[:shift]:
            taken[name].take(folder, folder / f"{name}-{repeat}")
            print(name, taken[name].told(), file=sys.stderr, flush=True)
            result["load_before_and_after"] = [before, facts.load()]
            plain = taken.get("plain")
            result["sides"] = {name: turns.summary(plain) for name, turns in taken.items() if turns.begun}
            _write(result, given.out)


def _write(result: Mapping[str, object], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


class Turns:
    """What a side's turns have given so far."""

    def __init__(self, side: Side) -> None:
        self._side, self._failed = side, ""
        self._figures: list[dict[str, float]] = []
        self._last: work.Work | None = None

    @property
    def begun(self) -> bool:
        return bool(self._failed or self._figures)

    def take(self, folder: Path, out: Path) -> None:
        """One more turn, but of a side that has failed."""
        if self._failed:
            return
        try:
            figures, self._last = turn(self._side, folder, out)
        except RuntimeError as error:
            self._failed = str(error)
        else:
            self._figures.append(figures)

    def told(self) -> str:
        """The last turn in a line."""
        return self._failed or str({name: round(value, 2) for name, value in self._figures[-1].items()})

    def summary(self, plain: Turns | None) -> dict[str, object]:
        """Medians, and medians of ratios to the plain loop's turns."""
        if self._failed or self._last is None:
            return {"failed": self._failed}
        names = list(self._figures[0])
        pairs = list(zip(self._figures, plain._figures, strict=False)) if plain else []
        over = {
            name: round(statistics.median(ours[name] / theirs[name] for ours, theirs in pairs), 3)
            for name in names
            if pairs
        }
        reference = plain._last if plain else None
        return {
            "version": facts.version(self._side.python, self._side.package),
            **{name: round(statistics.median(turn[name] for turn in self._figures), 3) for name in names},
            "over_plain": over,
            "difference_of_weights": round(_difference(self._last, reference), 5) if reference else None,
            "turns": [{name: round(value, 2) for name, value in turn.items()} for turn in self._figures],
        }


def _difference(done: work.Work, reference: work.Work) -> float:
    trained = layout(done.spec, done.settings.network).trained_size
    ours, theirs, start = (flat[:trained] for flat in (done.result()[0], reference.result()[0], done.start()))
    return float((ours - theirs).norm() / (theirs - start).norm())


if __name__ == "__main__":
    main()
