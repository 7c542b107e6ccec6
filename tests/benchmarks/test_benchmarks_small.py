"""The benchmarks run, at a tiny size, and say what they are documented to say; their figures decide nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.soak, pytest.mark.ci]  # minutes, and nothing of the product

ROOT = Path(__file__).resolve().parents[2]


def _run(script: str, *arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def _measured(result: dict[str, object]) -> list[dict[str, object]]:
    measured = result["measured"]
    assert isinstance(measured, list)
    return measured


def test_aggregation_tells_memory_and_rate_of_each_size(tmp_path: Path) -> None:
    result = _run("aggregation.py", "--sites", "2", "5", "--parameters", "500000", "--folder", str(tmp_path))
    assert [size["sites"] for size in _measured(result)] == [2, 5]
    for size in _measured(result):
        for field in ("increase_mb", "reduce_gb_per_s", "numpy_add_gb_per_s", "ratio_to_numpy_add"):
            value = size[field]
            assert isinstance(value, float)
            assert value >= 0
    assert list(tmp_path.iterdir()) == []


def test_overhead_trains_the_same_networks_on_both_sides() -> None:
    tiny = ["training.local_steps=1", "training.batch_size=4", "network.image_px=16", "network.width=4"]
    sites = ["cohort.phantom.sites=2", "cohort.phantom.patients=10", "cohort.phantom.exams_per_patient=4"]
    overrides = [part for override in tiny + sites for part in ("--set", override)]
    result = _run("simulation_overhead.py", "--rounds", "1", "--repeats", "1", "--workers", "1", *overrides)
    (measured,) = _measured(result)
    assert (result["goal_ratio"], measured["workers"], result["networks"]) == (1.05, 1, 6)
    for field in ("ratio_wall", "ratio_cpu", "ratio_wall_without_scoring", "ratio_cpu_without_scoring"):
        assert isinstance(measured[field], float)
    difference = result["relative_difference_of_final_weights"]
    assert isinstance(difference, float)
    assert difference < 0.01  # one step: the same batches, the same rates


def test_the_hand_phantom_tells_its_rate_of_each_width() -> None:
    result = _run("hand_phantom.py", "--widths", "64", "128", "--pictures", "2")
    assert [size["width_px"] for size in _measured(result)] == [64, 128]
    for size in _measured(result):
        rate = size["hands_per_s_on_two_cores"]
        assert isinstance(rate, float)
        assert rate > 0


def test_readers_random_tells_what_is_found_of_nothing() -> None:
    result = _run("readers_random.py", "8")
    accuracy = result["accuracy"]
    assert isinstance(accuracy, dict)
    for patients in accuracy.values():
        for measured in patients.values():
            assert set(measured) == {"random", "fixed", "width", "narrower"}
            assert 0 <= measured["random"] <= 1
            assert measured["width"] > 0


def test_the_benchmarks_write_one_json_and_one_page(tmp_path: Path) -> None:
    out, page = tmp_path / "bench.json", tmp_path / "performance.md"
    parts = ["start_up", "local_training_small", "multitude"]
    benchmarks = ROOT / "benchmarks"
    dry = ["--dry", "--minutes", "30", "--only", *parts]
    subprocess.run([sys.executable, benchmarks / "bench.py", out, *dry], check=True, timeout=PATIENCE_S)
    found = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert list(found) == parts
    assert found["multitude"]["result"]["same_answers"] is True
    for case in found["local_training_small"]["result"]["cases"]:
        assert max(case["largest_difference"].values()) < 1e-3
        assert min(case["ratio"], case["ratio_to_strong"], *case["cpu"].values()) > 0
    subprocess.run([sys.executable, benchmarks / "performance.py", tmp_path, "--out", page], check=True)
    text = page.read_text(encoding="utf-8")
    over_torch = found["start_up"]["result"]["commands"]["synofed --help"]["over_torch"]
    assert f"synofed --help | {over_torch} |" in text
