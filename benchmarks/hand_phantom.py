"""Phantom radiographs per second of one core at several widths; a picture holds two hands.

The core's time (process time, one thread) is what counts, so that other work on the machine hardly matters.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simulation.hand.grid import Layout
from simulation.hand.machines import MACHINES
from simulation.hand.radiographs import draw_radiograph

CORES, GOAL = 2, 10.0


def measure(width_px: int, pictures: int) -> dict[str, float]:
    layout = Layout(width_px=width_px)
    draw_radiograph(1, "site-a", 0).picture(MACHINES[0], layout)  # structures are made once
    start = time.process_time()
    for index in range(pictures):
        draw_radiograph(1, "site-a", index).picture(MACHINES[index % len(MACHINES)], layout)
    seconds = time.process_time() - start
    per_core = pictures / seconds
    return {
        "width_px": width_px,
        "radiographs_per_s_and_core": round(per_core, 2),
        "hands_per_s_on_two_cores": round(2 * CORES * per_core, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--pictures", type=int, default=40)
    options = parser.parse_args()
    measured = [measure(width, options.pictures) for width in options.widths]
    print(json.dumps({"goal_hands_per_s_on_two_cores_at_512": GOAL, "measured": measured}, indent=2))


if __name__ == "__main__":
    main()
