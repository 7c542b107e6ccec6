"""The product's speed on CPU cores in one go, as one JSON that ``performance.py`` makes a page of: `make bench`.

    python benchmarks/bench.py runs/bench.json [--minutes 14] [--only PART ...]
    python benchmarks/bench.py OUT --dry                # every part in small, to see that it runs

Every figure is a ratio within one run of one script. ``gpu.py`` does the same on a card, ``peers/compare.py`` beside
other systems. The other scripts here are studies of what is found, not of how fast, and run by themselves.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from shared import parts
from shared.parts import Part

RESNET = ("--config", "benchmarks/peers/work.toml", "--rounds", "3")
TINY = ("--set", "network.width=4", "--set", "network.image_px=16", "--set", "training.local_steps=1")
RESNET_STEPS = ("--backbone", "resnet18", "--batch", "16", "--images", "doppler")

PARTS = (
    Part(
        name="start_up", script="start_up.py", full=("--repeats", "2"), small=("--repeats", "1"), seconds=120
    ),
    Part(
        name="federation_small",
        script="simulation_overhead.py",
        full=("--rounds", "3", "--repeats", "1", "--workers", "2"),
        small=("--rounds", "1", "--repeats", "1", "--workers", "1", *TINY),
        seconds=150,
    ),
    Part(
        name="federation_resnet18",
        script="simulation_overhead.py",
        full=(*RESNET, "--repeats", "2", "--workers", "2"),
        small=(*RESNET[:2], "--rounds", "1", "--repeats", "1", "--workers", "1", *TINY),
        seconds=240,
    ),
    Part(
        name="local_training_small",
        script="local_training.py",
        full=("20", "3"),
        small=("2", "1", "--batch", "8"),
        seconds=90,
    ),
    Part(
        name="local_training_resnet18",
        script="local_training.py",
        full=("4", "3", *RESNET_STEPS),
        small=("1", "1", *RESNET_STEPS[:2], "--batch", "2", "--image-px", "32", "--images", "doppler"),
        seconds=120,
    ),
    Part(
        name="private_step",
        script="private_step.py",
        full=("--repeats", "7"),
        small=("--patients", "6", "--images", "3", "--features", "8", "--members", "1", "--repeats", "1"),
        seconds=90,
    ),
    Part(
        name="committee",
        script="committee.py",
        full=("--threads", "1", "--repeats", "5", "--backbones", "small"),
        small=(
            *("--threads", "1", "--backbones", "small", "--batches", "1"),
            *("--models", "1", "--replicas", "1", "--repeats", "1"),
        ),
        seconds=90,
    ),
    Part(
        name="aggregation",
        script="aggregation.py",
        full=("--sites", "2", "20"),
        small=("--sites", "2", "--parameters", "500000"),
        seconds=90,
    ),
    Part(name="multitude", script="multitude.py", full=("200000",), small=("1000",), seconds=30),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts.add_arguments(parser, PARTS, minutes=14)
    parts.run(PARTS, parser.parse_args())


if __name__ == "__main__":
    main()
