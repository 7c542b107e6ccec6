"""Start weights from a folder of labelled pictures: what is learnt is a start that network.weights takes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from common.errors import ConfigurationError, DataError
from common.exam import MISSING
from common.machine import known_weights, pretrained
from common.methods.stages import networks
from common.settings import Settings, parse
from common.text.terminal import Console
from server.rounds.weights import StartWeights
from simulation.cli.weights_cli import weights as commands
from simulation.engine.progress import Display
from simulation.runs import learnt_weights
from simulation.runs.learnt_weights import Table

SMALL = """
name = "bones"
method = "svdh"
images.hands.kind = "grey"
numbers.svdh = {largest = 280, step = 0.5, images = ["hands"]}
measurements.severity = {number = "svdh", edges = [10, 40], images = ["hands"]}
network = {backbone = "small", image_px = 32, width = 4}
training = {learning_rate = 1e-2, schedule = "constant", batch_size = 16, local_steps = 20, sampling = "shuffled"}
federation = {rounds = 3, selection = "last"}
svdh = {backbones = ["small"], transfer = "none"}
rating.folds = 2
"""


def made(folder: Path, *, count: int = 60) -> Path:
    """Pictures whose brightness is the number, as a table's rows have it, and a word for the dark and the light."""
    rng = np.random.default_rng(0)
    (folder / "x").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "age", "kind"])
        for index, level in enumerate(rng.uniform(30, 220, count)):
            picture = np.clip(rng.normal(level, 12, (40, 36)), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / "x" / f"{index}.png")
            table.writerow([f"x/{index}.png", f"{level:.1f}", "light" if level > 125 else "dark"])
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("pictures") / "p")


def display() -> Display:
    return Display(Console(stderr=True, quiet=True))


def learn(pictures: Path, out: Path, **columns: str) -> list[learnt_weights.Learnt]:
    table = Table(images=pictures, labels=pictures / "labels.csv", picture="file", **columns)
    with display() as shown:
        return learnt_weights.learn(parse(SMALL), table, out=out, display=shown)


def starting_from(folder: Path, *overrides: str) -> Settings:
    given = [f'network.weights="{folder}"', 'svdh.transfer="whole"', *overrides]
    return pretrained.resolved(parse(SMALL, overrides=given))


@pytest.mark.parametrize("column", ["number", "classes"])
def test_a_backbone_learns_and_campaigns_start_from_it(pictures: Path, tmp_path: Path, column: str) -> None:
    (one,) = learn(pictures, tmp_path / "w", **{column: "age" if column == "number" else "kind"})
    assert one.pictures == 54
    assert one.held_out > 0.8
    assert "60 pictures" in known_weights.about(one.path)
    settings = starting_from(tmp_path / "w")
    spec = next(iter(networks(settings).values()))
    start = torch.from_numpy(StartWeights(settings, tmp_path).start(spec))
    learnt = pretrained.part(spec, settings.network, "backbone")
    plain = torch.from_numpy(StartWeights(parse(SMALL), tmp_path).start(spec))
    assert (start[: len(learnt)] == learnt).all()
    assert (start[: len(learnt)] != plain[: len(learnt)]).any()
    assert settings.network.weights_sha256


def test_the_same_seed_learns_the_same(pictures: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        learn(pictures, tmp_path / name, number="age")
    one, two = ((tmp_path / name / "small.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("transfer", "frozen"), [("head", {"backbone"}), ("last_blocks", {"stem", "norm", "stages.0"})]
)
def test_what_does_not_train_is_the_start(
    pictures: Path, tmp_path: Path, transfer: str, frozen: set[str]
) -> None:
    learn(pictures, tmp_path / "w", number="age")
    settings = starting_from(tmp_path / "w", f'svdh.transfer="{transfer}"', "svdh.blocks=2")
    spec = next(iter(networks(settings).values()))
    parts = StartWeights(settings, tmp_path).frozen(spec)
    assert {name.removeprefix("backbone.") for name in parts} == frozen
    state = torch.cat([torch.from_numpy(values) for values in parts.values()])
    trained = next(iter(networks(starting_from(tmp_path / "w")).values()))
    whole = pretrained.part(trained, settings.network, "backbone")
    travels = StartWeights(settings, tmp_path).start(spec)
    assert len(state) + len(travels) == len(whole) + (2 * 4 * 4 + 1)  # and the head, of a number
    assert set(state.tolist()) <= set(whole.tolist())


def test_tables_and_settings_that_cannot_be_used_say_so(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name exactly one"):
        learn(pictures, tmp_path / "w", number="age", classes="kind")
    with pytest.raises(DataError, match="expected a number"):
        learn(pictures, tmp_path / "w", number="kind")
    with pytest.raises(DataError, match="Expected 2 to 16 classes in age, got"):
        learn(pictures, tmp_path / "w", classes="age")
    with pytest.raises(DataError, match="Expected nothing at"):
        learn(pictures, tmp_path, number="age")


def test_pictures_of_one_patient_are_held_out_together() -> None:
    groups = [f"p{index // 5}" for index in range(50)]
    pictures, values = torch.zeros(50, 1, 4, 4, dtype=torch.uint8), np.linspace(0, 1, 50)
    data = learnt_weights._exams("hands", pictures, groups, values, 0, seed=1)
    apart = {group for group, fold in zip(groups, data.fold.tolist(), strict=True) if fold == MISSING}
    assert len(apart) == 1
    assert int((data.fold == MISSING).sum()) == 5
    assert len(data.patient.unique()) == 10


def test_the_command_writes_the_file(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(SMALL)
    told = [
        "learn", str(tmp_path / "c.toml"), "--images", str(pictures), "--labels", str(pictures / "labels.csv"),
        "--picture", "file", "--number", "age", "--out", str(tmp_path / "w"), "--set", "federation.rounds=1",
    ]  # fmt: skip
    result = CliRunner().invoke(commands, told)
    assert result.exit_code == 0, result.output
    assert "54 pictures" in result.output
    assert (tmp_path / "w" / "small.safetensors").is_file()
