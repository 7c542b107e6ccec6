"""Event files for TensorBoard say what the run's folder says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import synofed
from common.errors import ConfigurationError, DataError
from server.report import content
from simulation.runs import event_files
from tests.server.report.test_report import make_full

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_full(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def test_scalars_are_the_rounds_and_the_held_out_scores(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    metrics = json.loads((run / "metrics.json").read_text())
    found = dict(event_files.scalars(content.read(run)))
    assert set(found) == {line.get("system", "federated") for line in lines}
    for system, values in found.items():
        own = [line for line in lines if line.get("system", "federated") == system]
        losses = [
            (f"loss/{line['group']}", line["loss"], line["round"]) for line in own if line["loss"] is not None
        ]
        assert [one for one in values if one[0].startswith("loss/")] == losses != []
        last = max(line["round"] for line in own)
        assert all(step == last for tag, _, step in values if tag.startswith("held-out"))
    held_out = {tag: value for tag, value, _ in found["federated"] if tag.startswith("held-out")}
    assert held_out["held-out accuracy/combined"] == metrics["combined"]["accuracy"]["value"]
    site = next(system for system in found if system.startswith("alone:"))
    alone = {tag: value for tag, value, _ in found[site] if tag.startswith("held-out")}
    baseline = metrics["baselines"]["alone"][site.removeprefix("alone:")]["combined"]["kappa_linear"]["value"]
    assert alone["held-out kappa_linear/combined"] == baseline


def test_an_unfinished_run_has_its_rounds(run: Path) -> None:
    (run / "metrics.json").unlink()
    found = dict(event_files.scalars(content.read(run)))
    assert found["federated"]
    assert not any(tag.startswith("held-out") for values in found.values() for tag, _, _ in values)


def test_event_files_hold_the_scalars(run: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = synofed.tensorboard(run)
    assert out == run / "tensorboard"
    for system, values in event_files.scalars(content.read(run)):
        read = EventAccumulator(str(out / system.replace(":", "-")))
        read.Reload()
        assert set(read.Tags()["scalars"]) == {tag for tag, _, _ in values}
        for tag, value, step in values:
            assert (step, pytest.approx(value)) in [(one.step, one.value) for one in read.Scalars(tag)]
    with pytest.raises(ConfigurationError, match="exists already"):
        synofed.tensorboard(run)
    empty = run.parent / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="run with rounds"):
        synofed.tensorboard(empty)


@pytest.mark.soak
def test_without_the_package_it_is_said_how_to_get_it(run: Path) -> None:
    code = "import sys; sys.modules['tensorboard'] = None; import synofed; synofed.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "tensorboard", str(run)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "pip install 'synofed[tensorboard]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "tensorboard").exists()
