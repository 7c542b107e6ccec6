"""Seconds per round of synofed's simulation and of pfl-research on the same work, as JSON: `make bench-pfl`.

    python benchmarks/pfl_research/compare.py [--rounds 3] [--models 1] [--repeats 3] [--pfl PYTHON]

Each side runs in its own environment, in processes that take turns, with one worker and one thread, on the same
site folders: the same networks, batches, augmentation, steps, FedAvg weighted by exams. Neither scores
validation exams, and the learning rate is constant, which pfl wants within a round. Imports, reading of the
sites and a first round are not in the times. synofed's side keeps its messages, spool, journal and files.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch
from shared import plain_loop

ROOT = Path(__file__).resolve().parents[2]
CONSTANT = "training.schedule=constant"


def run(
    python: Path | str, script: str, *, sites: list[Path], given: argparse.Namespace, weights: Path
) -> dict:
    arguments = ["--rounds", str(given.rounds), "--models", str(given.models), "--weights", str(weights)]
    overrides = [part for override in (CONSTANT, *given.set) for part in ("--set", override)]
    done = subprocess.run(
        [python, Path(__file__).with_name(script), *arguments, *overrides, "--sites", *sites],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="override of configs/quickstart.toml")
    parser.add_argument("--pfl", type=Path, default=ROOT / ".venv-pfl" / "bin" / "python")
    given = parser.parse_args()
    overrides = [CONSTANT, *given.set]
    settings = plain_loop.quickstart(rounds=given.rounds, models=given.models, overrides=overrides)
    samples: dict[str, list[dict[str, float]]] = {"synofed": [], "pfl": []}
    with tempfile.TemporaryDirectory() as folder:
        sites = plain_loop.make_sites(Path(folder), settings, histograms=False)
        files = {side: Path(folder) / f"{side}.pt" for side in samples}
        for _ in range(given.repeats):
            for side, python, script in (
                ("synofed", sys.executable, "ours.py"),
                ("pfl", given.pfl, "theirs.py"),
            ):
                samples[side].append(run(python, script, sites=sites, given=given, weights=files[side]))
        ours, theirs = (torch.load(files[side]) for side in ("synofed", "pfl"))
    difference = plain_loop.relative_difference(ours, theirs, settings)
    print(json.dumps(_result(samples, given.rounds, difference), indent=2))


def _result(samples: dict[str, list[dict[str, float]]], rounds: int, difference: float) -> dict[str, object]:
    def a_round(side: str, clock: str) -> float:
        return round(statistics.median(sample[clock] for sample in samples[side]) / rounds, 3)

    def ratio(clock: str) -> float:
        pairs = zip(samples["pfl"], samples["synofed"], strict=True)
        return round(statistics.median(theirs[clock] / ours[clock] for theirs, ours in pairs), 3)

    return {
        "pfl_over_synofed_wall": ratio("wall_s"),
        "pfl_over_synofed_cpu": ratio("cpu_s"),
        "seconds_per_round_wall": {side: a_round(side, "wall_s") for side in samples},
        "seconds_per_round_cpu": {side: a_round(side, "cpu_s") for side in samples},
        "samples": samples,
        "rounds": rounds,
        "relative_difference_of_final_weights": round(difference, 6),
    }


if __name__ == "__main__":
    main()
