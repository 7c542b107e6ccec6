"""The sides of the comparison that need no environment of their own do the same work; no figure decides anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.soak]  # minutes, and nothing of the product

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "peers" / "compare.py"
TINY = ("network.backbone=small", "network.width=4", "network.image_px=16", "training.local_steps=1")


def test_synofed_and_flower_end_with_the_weights_of_the_plain_loop(tmp_path: Path) -> None:
    overrides = [part for override in TINY for part in ("--set", override)]
    sides = ["--sides", "plain", "synofed", "flower"]
    out = tmp_path / "peers.json"
    once = ["--rounds", "3", "--repeats", "1", *sides, *overrides]
    subprocess.run([sys.executable, SCRIPT, out, *once], check=True, timeout=PATIENCE_S)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["work"]["sites"] == 4
    for name, side in result["sides"].items():
        assert "failed" not in side, (name, side)
        assert side["difference_of_weights"] < 0.05, (
            name
        )  # another batch, or another rate, would give near one
        for figure in ("wall_s", "cpu_s", "peak_mb", "start_up_s", "cpu_a_round_s"):
            assert side[figure] > 0, (name, figure)
            assert side["over_plain"][figure] > 0, (name, figure)
