"""The same engine for other organs: one image, one measurement, any number of grades."""

from pathlib import Path

import pytest

import synofed
from tests.site_folders import make_site_folder

LIVER = Path(__file__).parents[4] / "shared" / "data"
CONFIGS = Path(__file__).parents[3] / "configs"

THREE_GRADES = """
name = "thyroid"
[images.gland]
kind = "grey"
[measurements.echogenicity]
grades = 3
images = ["gland"]
[network]
image_px = 16
width = 4
[training]
learning_rate = 0.01
batch_size = 8
local_steps = 4
[federation]
rounds = 3
[rating]
folds = 2
replicas = 2
[evaluate]
baselines = false
bootstrap = 100
[cohort]
folder = "{folder}"
"""


def test_three_grades_read_from_one_image(tmp_path: Path) -> None:
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            tmp_path / "cohort" / name,
            name=name,
            patients=12,
            exams_per_patient=4,
            seed=seed,
            images=("gland",),
            measurements=("echogenicity",),
            grades=3,
            held_out_patients=4,
        )
    config = tmp_path / "thyroid.toml"
    config.write_text(THREE_GRADES.format(folder=tmp_path / "cohort"), encoding="utf-8")
    run = synofed.simulate(config, out=tmp_path / "run")
    metrics = run.metrics()
    assert "combined" not in metrics
    assert len(metrics["echogenicity"]["confusion"]) == 3
    assert metrics["echogenicity"]["accuracy"]["value"] > 0.5  # brightness tells the grade
    assert metrics["reference"] == "consensus"
    assert len(list((run.path / "networks").iterdir())) == 2 * 2 * 2


@pytest.mark.soak
@pytest.mark.ci
@pytest.mark.skipif(
    not (LIVER / "manifest.csv").exists(), reason="the liver pictures are not part of the repository"
)
def test_real_liver_pictures_run_through_the_same_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # cohorts are kept in the working folder
    run = synofed.simulate(
        CONFIGS / "liver.toml",
        out=tmp_path / "run",
        overrides=[
            f"cohort.public.images={LIVER}",
            f"cohort.public.labels={LIVER / 'manifest.csv'}",
            "federation.rounds=2",
            "training.local_steps=2",
            "evaluate.bootstrap=100",
        ],
    )
    metrics = run.metrics()
    assert len(metrics["sites"]) == 3
    assert len(metrics["steatosis"]["confusion"]) == 4
    assert {"alone", "centralised"} <= set(metrics["baselines"])
    assert metrics["steatosis"]["accuracy"]["ci95"][0] <= metrics["steatosis"]["accuracy"]["value"]
