"""Method svdh over sites: it learns, repeats itself, resumes, stacks, and shows where it looks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import synofed
from common.errors import ConfigurationError
from common.methods.stages import method, networks
from common.networks import build
from common.networks.spec import NetworkSpec
from common.settings import Settings, parse
from common.training.data import ExamTensors
from common.training.local import train_network
from common.training.local_settings import local_settings
from simulation.phantom.folders import NO_BUDGET, SITE_TOML

CONFIG = """
name = "tiny"
seed = 5
method = "svdh"
images.hands.kind = "grey"
numbers.svdh = {{largest = 280, step = 0.5, images = ["hands"]}}
measurements.severity = {{number = "svdh", edges = [40, 90, 150], images = ["hands"]}}
network = {{backbone = "small", image_px = 24, width = 4}}
rating.folds = 2
evaluate.bootstrap = 100
cohort.folder = "{folder}"
compute.devices = ["cpu"]

[svdh]
backbones = ["small"]
classes = "ordinal"
transfer = "none"

[training]
learning_rate = 1e-2
schedule = "constant"
batch_size = 12
local_steps = 15
sampling = "shuffled"

[federation]
rounds = 4
selection = "last"
optimiser_state = "kept"
"""


def site(folder: Path, name: str, *, seed: int, patients: int = 30) -> Path:
    """Grey pictures whose brightness is the score; two readers a point apart."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    manifest = [["exam_id", "patient_id", "device", "hands_path", "split"]]
    grades = [["exam_id", "reader", "session", "svdh"]]
    for index in range(patients):
        total = int(rng.integers(1, 200))
        picture = np.clip(rng.normal(20 + total, 8, (28, 32)), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{index}.png")
        where = "test" if index % 3 == 0 else "train"
        manifest.append([f"{name}-{index}", f"{name}-{index}", "m", f"images/{index}.png", where])
        grades += [[f"{name}-{index}", reader, "1", str(total + n)] for n, reader in enumerate("ab")]
    for file, rows in (("manifest.csv", manifest), ("grades.csv", grades)):
        with (folder / file).open("w", newline="") as opened:
            csv.writer(opened).writerows(rows)
    text = SITE_TOML.format(name=name, minimum_cohort=5, budget=NO_BUDGET)
    (folder / "site.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("svdh")
    for seed, name in enumerate(("north", "south")):
        site(base / "cohort" / name, name, seed=seed)
    (base / "tiny.toml").write_text(CONFIG.format(folder=base / "cohort"))
    return base / "tiny.toml"


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    return synofed.simulate(config, out=config.parent / "run").path


def measured(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


@pytest.mark.soak
@pytest.mark.ci
def test_it_learns_and_stacks_what_the_folds_say(run: Path) -> None:
    metrics = measured(run)
    number = metrics["numbers"]["svdh"]
    assert number["exams"] == 20
    assert number["pearson"]["value"] > 0.8
    stacking = metrics["stacking"]
    assert stacking["sites"] == {"north": 20, "south": 20}
    assert stacking["without"] == []
    assert list(stacking["weights"]) == ["svdh/small/svdh/number"]
    assert metrics["severity"]["accuracy"]["value"] > 0.4
    frame = pd.read_parquet(run / "predictions.parquet")
    (weight,) = stacking["weights"].values()
    mean = frame[["number_svdh_0", "number_svdh_1"]].mean(axis=1)
    expected = np.clip(weight * mean + stacking["intercept"], 0, 280)
    np.testing.assert_allclose(frame["number_svdh"], expected, atol=1e-6)
    assert np.allclose(frame["label_svdh"] * 2, (frame["label_svdh"] * 2).round(), atol=1e-4)


@pytest.mark.soak
def test_it_repeats_itself_and_resumes(config: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = config.parent / "other"
    synofed.simulate(config, out=other, overrides=["federation.rounds=4"])
    files = sorted(path.name for path in (run / "networks").iterdir())
    assert files
    for name in files:
        assert (run / "networks" / name).read_bytes() == (other / "networks" / name).read_bytes()
    again = synofed.simulate(config, out=other, resume=True).path
    pd.testing.assert_frame_equal(
        pd.read_parquet(run / "predictions.parquet"), pd.read_parquet(again / "predictions.parquet")
    )


@pytest.mark.soak
def test_folds_that_judge_are_stacked_without_themselves(config: Path) -> None:
    given = ['evaluate.design="folds"', "federation.rounds=2"]
    folder = synofed.simulate(config, out=config.parent / "folds", overrides=given).path
    assert measured(folder)["numbers"]["svdh"]["exams"] == 60
    assert not pd.read_parquet(folder / "predictions.parquet")["number_svdh"].isna().any()


@pytest.mark.soak
def test_heatmaps_are_compared_with_damaged_joints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    phantom = "cohort={hands={sites=1, patients=24, width_px=96, unseen_device=false}}"
    text = CONFIG.format(folder="x")
    (tmp_path / "c.toml").write_text(text)
    given = [phantom, "federation.rounds=1", "evaluate.heatmaps=3", 'evaluate.heatmap_method="grad_cam"']
    folder = synofed.simulate(tmp_path / "c.toml", out=tmp_path / "run", overrides=given).path
    found = measured(folder)["heatmaps"]
    assert (found["method"], found["copies"], found["measurement"]) == ("grad_cam", 1, "svdh")
    hands = found["images"]["hands"]
    assert 0 < hands["chance"]["value"] < 0.6
    assert list((folder / "figures" / "heatmaps").iterdir())


def exams(count: int, seed: int) -> ExamTensors:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(count, generator=generator) * 0.7
    side = 32
    pictures = torch.randint(0, 255, (count, 1, side, side), generator=generator).to(torch.uint8)
    edges = torch.tensor([40 / 280, 90 / 280, 150 / 280])
    return ExamTensors(
        images={"hands": pictures},
        grades={"severity": torch.bucketize(shares, edges, right=True).to(torch.int8)},
        numbers={"svdh": shares},
        fold=torch.ones(count, dtype=torch.int8),
        patient=torch.arange(count).int(),
    )


def pooled(parts: list[ExamTensors]) -> ExamTensors:
    return ExamTensors(
        images={"hands": torch.cat([part.images["hands"] for part in parts])},
        grades={"severity": torch.cat([part.grades["severity"] for part in parts])},
        numbers={"svdh": torch.cat([part.numbers["svdh"] for part in parts])},
        fold=torch.cat([part.fold for part in parts]),
        patient=torch.arange(sum(map(len, parts))).int(),
    )


def settings_of(*overrides: str) -> Settings:
    return parse(CONFIG.format(folder="x"), overrides=overrides)


def update(spec: NetworkSpec, settings: Settings, data: ExamTensors) -> tuple[torch.Tensor, int]:
    local = local_settings(spec, settings)
    weights = build.initial_weights(spec, settings.network, seed=1)
    trained, _ = train_network(weights, {}, data, local, 1, 1)
    return trained.update, trained.num_examples


@pytest.mark.parametrize("classes", ["nominal", "ordinal"])
def test_one_full_batch_step_of_two_sites_is_that_of_pooled_exams(classes: str) -> None:
    settings = settings_of(
        f'svdh.classes="{classes}"', 'training.optimiser="sgd"', 'training.sampling="all"', "training.local_steps=1",
        "training.batch_size=100", "training.augmentation={rotation_degrees=0.0, brightness=0.0, contrast=0.0, "
        "grey_shift=0.0, grey_scale=[1.0, 1.0]}", "training.weight_decay=0.0", "network.image_px=24",
    )  # fmt: skip
    sites = [exams(9, 1), exams(14, 2)]
    for spec in (spec for spec in networks(settings).values() if spec.fold == 0):
        updates = [update(spec, settings, data) for data in sites]
        federated = sum(one * count for one, count in updates) / sum(count for _, count in updates)
        centralised, _ = update(spec, settings, pooled(sites))
        assert isinstance(federated, torch.Tensor)
        assert centralised.abs().max() > 0
        assert (federated - centralised).abs().max() <= 1e-4 * centralised.abs().max(), spec.name


def test_the_networks_are_those_of_the_paper() -> None:
    given = ['svdh.backbones=["resnet18", "mobilenet_v2"]', 'svdh.classes="nominal"', "rating.folds=5"]
    settings = settings_of(*given)
    specs = networks(settings)
    assert len(specs) == 5 * 2 * 2
    kinds = {(spec.backbone, spec.target.kind, spec.target.outputs) for spec in specs.values()}
    assert kinds == {
        (b, k, n) for b in ("resnet18", "mobilenet_v2") for k, n in (("regression", 1), ("nominal", 4))
    }
    assert method("svdh").scores(settings) == {"severity": 4}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('federation.selection="best"', "Expected federation.selection"),
        ('svdh.transfer="head"', "must have learnt something"),
        ('svdh.transfer="last_blocks"', "must have learnt something"),
        ('svdh.number="other"', "Expected svdh.number among"),
        ('svdh.measurement="other"', "as the only measurement"),
        ('network.weights="x"', "for svdh.transfer"),
    ],
)
def test_what_cannot_be_is_said_before_training(override: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        networks(settings_of(override))


def test_more_blocks_than_there_are_and_private_campaigns_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Expected svdh\.blocks below the blocks"):
        networks(settings_of('svdh.transfer="last_blocks"', 'network.weights="x"', "svdh.blocks=4"))
    with pytest.raises(ConfigurationError, match=r"\[numbers\] is for campaigns without \[privacy\]"):
        settings_of("privacy={patients=100, noise_multiplier=1.0}")


def test_a_sites_own_sums_for_the_stacking_do_not_go_with_secure_sums() -> None:
    secure = ['federation.optimiser_state="fresh"', "federation.secure={sites=3, survivors=3}"]
    with pytest.raises(ConfigurationError, match=r'Expected svdh\.stacking = "mean" with federation\.secure'):
        networks(settings_of(*secure))
    assert networks(settings_of(*secure, 'svdh.stacking="mean"'))


@pytest.mark.soak
def test_classes_can_be_read_off_the_number(config: Path) -> None:
    given = ['svdh.classes="number"', "evaluate.baselines=true"]
    folder = synofed.simulate(config, out=config.parent / "number", overrides=given).path
    assert {spec.target.kind for spec in networks(settings_of(given[0])).values()} == {"regression"}
    frame = pd.read_parquet(folder / "predictions.parquet")
    mean = frame[["number_svdh_0", "number_svdh_1"]].mean(axis=1)
    assert list(frame["decision_severity"]) == list(np.searchsorted([40, 90, 150], mean, side="right"))
    found = measured(folder)
    assert found["severity"]["accuracy"]["value"] > 0.4
    assert found["severity"]["pearson"]["value"] > 0.7
