"""The attack runs, at a tiny size, and finds a picture in a gradient that is not noised, and none in one that is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.soak, pytest.mark.ci]  # minutes, and nothing of the product

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gradient_inversion.py"


def test_a_gradient_shows_a_picture_and_noise_hides_it(tmp_path: Path) -> None:
    tiny = ["--px", "16", "--width", "4", "--iterations", "150", "--smoothness", "0.1"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *tiny, "--figure", str(tmp_path / "figure.png")],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=PATIENCE_S,
    )
    result = json.loads(done.stdout)
    measured = {one["gradient"]: one for one in result["measured"]}
    assert list(measured) == [
        f"{what}{noise}"
        for what in ("whole network", "head alone")
        for noise in ("", ", epsilon 8", ", epsilon 3")
    ]
    bare, noised = measured["whole network"], measured["whole network, epsilon 8"]
    assert bare["noise_over_signal"] == 0
    assert noised["noise_over_signal"] > 100
    assert bare["cosine"] > 0.5 > abs(noised["cosine"])
    assert (tmp_path / "figure.png").stat().st_size > 1000
