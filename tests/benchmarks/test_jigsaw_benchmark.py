"""The jigsaw benchmark runs, at a tiny size, and says what it is documented to say; its figures decide nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.soak, pytest.mark.ci]  # minutes, and nothing of the product

ROOT = Path(__file__).resolve().parents[2]


def test_both_starts_are_compared_on_the_same_seeds() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "jigsaw.py"), "--small"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    result = json.loads(done.stdout)
    assert (result["training_patients"], result["held_out_patients"], result["seeds"]) == (16, 16, 2)
    (measured,) = result["measured"]
    assert (measured["puzzles"], measured["chance"]) == ("48/12/4", 0.25)
    assert 0 <= measured["accuracy"]["smallest"] <= measured["accuracy"]["mean"] <= 1
    assert set(measured["tasks"]) == {"gt0", "gt1"}
    for task in measured["tasks"].values():
        difference, auc = task["difference"], task["auc"]
        assert set(task["learning_rates"].values()) <= {1e-3, 4e-3}
        assert len(difference["seeds"]) == 2
        assert (
            abs(difference["mean"] - (auc["jigsaw"] - auc["random"])) < 2e-4
        )  # both are rounded to four places
