"""The benchmark of a private step runs, at a tiny size, and its ways compute the same; its figures decide nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.soak, pytest.mark.ci]  # minutes, and nothing of the product

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "private_step.py"


def test_private_and_opacus_sum_the_same() -> None:
    tiny = ["--patients", "6", "--images", "3", "--features", "8", "--members", "1", "--hidden", "0", "4"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *tiny, "--repeats", "2"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
    )
    result = json.loads(done.stdout)
    assert [measured["hidden"] for measured in result["measured"]] == [None, 4]
    for measured in result["measured"]:
        assert measured["largest_difference"] < 3e-6
        for name in ("private_over_plain", "private_over_opacus", "opacus_over_plain"):
            assert measured[name] > 0
    assert result["noise"]["million_per_s"] > 0
