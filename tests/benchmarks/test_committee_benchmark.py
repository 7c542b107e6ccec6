"""The committee's benchmark runs, at a tiny size, and says what it is documented to say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.soak, pytest.mark.ci]  # minutes, and nothing of the product

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--image-px", "32", "--width", "4", "--models", "1", "--threads", "1", "--repeats", "1")


@pytest.mark.parametrize(("backbone", "replicas", "batches"), [("small", 2, (1, 16)), ("resnet18", 1, (1,))])
def test_every_way_is_compared_on_the_same_networks(
    backbone: str, replicas: int, batches: tuple[int, ...]
) -> None:
    asked = ["--backbones", backbone, "--replicas", str(replicas), "--batches", *map(str, batches)]
    command = [sys.executable, str(ROOT / "benchmarks" / "committee.py"), *asked, *TINY]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    cases = json.loads(done.stdout)["cases"]
    assert [case["batch"] for case in cases] == list(batches)
    for case in cases:
        assert (case["backbone"], case["networks"]) == (backbone, 6 * replicas)
        assert all(milliseconds > 0 for milliseconds in case["shortest_milliseconds"].values())
        assert all(ratio > 0 for ratio in case["times_faster"].values())
        assert set(case["chosen"]) == set(case["chosen_bfloat16"]) == {"gs+doppler", "doppler"}
        assert case["largest_difference_of_logits"] < 1e-4 * case["largest_logit"]
        assert (case["bfloat16"] is None) == (case["batch"] == 1)
    for share in (cases[-1]["bfloat16"] or {}).values():
        assert 0.5 < share <= 1
