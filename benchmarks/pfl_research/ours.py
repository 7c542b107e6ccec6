"""Trains quickstart's networks over site folders with synofed's simulation; prints seconds as JSON.

.venv/bin/python benchmarks/pfl_research/ours.py --sites FOLDER... --rounds N --models N --weights FILE
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch
from shared import plain_loop
from simulation_overhead import federated, final_weights, timed

from common.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sites", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--models", type=int, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--weights", type=Path, required=True, help="file for the final weights")
    given = parser.parse_args()
    torch.set_num_threads(1)

    def settings(rounds: int) -> Settings:
        return plain_loop.quickstart(rounds=rounds, models=given.models, overrides=given.set)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        federated(given.sites, settings(1), out=out / "warm", workers=1)
        wall, cpu = timed(lambda: federated(given.sites, settings(given.rounds), out=out / "run", workers=1))
        torch.save(final_weights(out / "run", settings(given.rounds)), given.weights)
    print(json.dumps({"wall_s": wall, "cpu_s": cpu}))


if __name__ == "__main__":
    main()
