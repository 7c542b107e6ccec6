"""Processor time and memory of commands that only say how they are used, over importing torch, as JSON.

    python benchmarks/start_up.py [--repeats 3]

A command's ``over_torch`` is its user and system time over that of ``import torch`` taken just before it; a median.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from shared import processes

ROOT = Path(__file__).resolve().parents[1]
TORCH = ("-c", "import torch")
RUN = ("-c", "import sys; from synofed import main; sys.argv[0] = 'synofed'; main()")
COMMANDS = ((), ("simulate",), ("report",), ("site",), ("federation",), ("privacy",))


def cost(*arguments: str) -> processes.Cost:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *arguments]
        return processes.measured(command, log=Path(folder) / "log.txt", cwd=ROOT, limit_s=120, every_s=0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    cost(*TORCH), cost(*RUN, "--help")  # files are in the page cache
    turns = [
        [(cost(*TORCH), cost(*RUN, *command, "--help")) for command in COMMANDS] for _ in range(given.repeats)
    ]
    commands = {}
    for command, taken in zip(COMMANDS, zip(*turns, strict=True), strict=True):
        commands[" ".join(["synofed", *command, "--help"])] = {
            "over_torch": round(statistics.median(ours.cpu_s / torch.cpu_s for torch, ours in taken), 2),
            "cpu_s": round(statistics.median(ours.cpu_s for _, ours in taken), 2),
            "peak_mb": round(max(ours.peak_mb for _, ours in taken)),
        }
    torch_s = statistics.median(torch.cpu_s for turn in turns for torch, _ in turn)
    print(json.dumps({"import_torch_cpu_s": round(torch_s, 2), "commands": commands}, indent=2))


if __name__ == "__main__":
    main()
