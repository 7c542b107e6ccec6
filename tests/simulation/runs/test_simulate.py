import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import synofed
from common.errors import CampaignError, ConfigurationError, DataError
from common.machine import network_files
from common.scoring import ecoc, eoss
from server.rounds import journal
from server.runs.run_folder import RunFolder
from tests.marks import RAY
from tests.patience import PATIENCE_S, wait_for
from tests.site_folders import make_site_folder

CONFIG = """
name = "small"
seed = 3
validity = "eoss"
[images.gs]
kind = "grey"
[images.doppler]
kind = "doppler"
[measurements.hypertrophy]
images = ["gs", "doppler"]
[measurements.vascularity]
images = ["doppler"]
[network]
image_px = 16
width = 4
hidden = 8
[training]
learning_rate = 0.01
batch_size = 8
local_steps = 2
[federation]
rounds = 2
group_bytes = 60_000
[rating]
folds = 2
replicas = 1
[evaluate]
baselines = true
bootstrap = 100
[cohort]
folder = "{folder}"
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            folder / name, name=name, patients=9, exams_per_patient=4, seed=seed, held_out_patients=3
        )
    return folder


@pytest.fixture
def config(cohort: Path, tmp_path: Path) -> Path:
    return _configured(cohort, tmp_path)


def _configured(cohort: Path, folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(CONFIG.format(folder=cohort), encoding="utf-8")
    return path


FAST = ["federation.rounds=1", "evaluate.baselines=false", "rating.models=1", "rating.fusion=joint"]


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> synofed.Run:
    """The study, undisturbed; nobody changes it."""
    folder = tmp_path_factory.mktemp("whole")
    return synofed.simulate(_configured(cohort, folder), out=folder / "run")


@pytest.fixture(scope="module")
def _short(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short")
    return synofed.simulate(_configured(cohort, folder), out=folder / "run", overrides=FAST).path


@pytest.fixture
def finished(_short: Path, tmp_path: Path) -> Path:
    """A short study's folder, that may be changed."""
    shutil.copytree(_short, tmp_path / "run")
    return tmp_path / "run"


def _networks(run: Path) -> dict[str, np.ndarray]:
    return {n.spec.name: n.weights for n in network_files.load_all(run / "networks")}


def _assert_same_networks(one: Path, other: Path) -> None:
    first, second = _networks(one), _networks(other)
    assert list(first) == list(second) != []
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_a_study_leaves_metrics_predictions_networks_and_a_report(whole: synofed.Run) -> None:
    run = whole
    metrics, predictions = run.metrics(), run.predictions()
    for name in ("hypertrophy", "vascularity", "combined"):
        assert 0 <= metrics[name]["accuracy"]["value"] <= 1
        assert np.sum(metrics[name]["confusion"]) == len(predictions)
    assert set(metrics["sites"]) == {"north", "south"}
    assert set(metrics["baselines"]["alone"]) == {"north", "south"}
    assert metrics["models"] == metrics["baselines"]["federated"]["models"] == 2
    assert metrics["baselines"]["federated"]["combined"] == metrics["combined"]
    assert set(metrics["own_patients"]["sites"]) == {"north", "south"}
    own = metrics["own_patients"]["mean"]["combined"]["accuracy"]
    assert own["gain"]["value"] == pytest.approx(own["federated"]["value"] - own["alone"]["value"])
    assert metrics["ties"]["share"] == predictions["tie"].mean()
    assert (predictions["commonest_combined"] == predictions["commonest_combined"][0]).all()
    far = (predictions["label_vascularity"] - predictions["decision_vascularity"]).abs() >= 2
    assert metrics["far_off"]["vascularity"]["exams"] == far.sum()
    assert metrics["invalid_pairs"] == 0
    assert eoss.is_valid(predictions["decision_hypertrophy"], predictions["decision_vascularity"]).all()
    assert set(predictions["patient_id"].str[-4:]) == {"p006", "p007", "p008"}  # the held-out ones alone
    told = journal.validation(run.path / "journal", plan_hash=RunFolder(run.path).settings().plan_hash())
    for trained in network_files.load_all(run.path / "networks"):
        if trained.spec.scoring:
            assert told[trained.spec.name].auc() == trained.result.auc, "of the round that was selected"
    calibration = metrics["calibration"]["tasks"]["hypertrophy"]["gt0"]
    assert list(calibration) == ["validation", "federated", "centralised"]
    assert calibration["validation"]["networks"] == calibration["federated"]["networks"] == 2
    assert calibration["federated"]["exams"] == len(predictions)
    assert (run.path / "report.html").stat().st_size > 10_000
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "COMPLETE_ALL_SITES"
    assert manifest["privacy"] == "no differential privacy"
    lines = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    assert {line["system"] for line in lines} == {"federated", "alone:north", "alone:south", "centralised"}
    network = run.network("rating/fold0/vascularity/gt1/a")
    assert not network.training
    with pytest.raises(DataError, match="Expected a trained network"):
        run.network("rating/fold9/vascularity/gt1/a")


@pytest.mark.soak
def test_fewer_models_of_the_baselines_cut_the_federation_down_alike(config: Path, tmp_path: Path) -> None:
    fewer = ["federation.rounds=1", "rating.fusion=joint", "evaluate.baseline_models=1"]
    run = synofed.simulate(config, out=tmp_path / "run", overrides=fewer)
    metrics, predictions = run.metrics(), run.predictions()
    cut = pd.read_parquet(run.path / "predictions_baselines.parquet").query("system == 'federated'")
    answer = cut[["decision_hypertrophy", "decision_vascularity"]].max(axis=1)
    right = (answer == cut[["label_hypertrophy", "label_vascularity"]].max(axis=1)).mean()
    first = predictions.set_index("exam_id").loc[cut["exam_id"]]
    assert (first["vote_vascularity_0"].to_numpy() == cut["vote_vascularity_0"].to_numpy()).all()
    assert "vote_vascularity_1" not in cut.dropna(axis=1)
    baselines = metrics["baselines"]
    assert baselines["federated"]["combined"]["accuracy"]["value"] == pytest.approx(right)
    assert (metrics["models"], baselines["federated"]["models"]) == (2, 1)
    difference = metrics["differences"]["federated_minus_alone_mean"]["combined"]["accuracy"]["value"]
    assert difference == pytest.approx(right - baselines["alone_mean"]["combined"]["accuracy"]["value"])
    assert "with 1 of 2 scoring models each" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.soak
def test_a_site_that_holds_nobody_out_is_trained_and_not_judged(config: Path, tmp_path: Path) -> None:
    for name, held_out in (("north", 3), ("south", 0)):
        make_site_folder(
            tmp_path / "some" / name, name=name, patients=9, exams_per_patient=4, held_out_patients=held_out
        )
    some = [
        "federation.rounds=1",
        "rating.models=1",
        "rating.fusion=joint",
        f"cohort.folder={tmp_path / 'some'}",
    ]
    metrics = synofed.simulate(config, out=tmp_path / "run", overrides=some).metrics()
    own = metrics["own_patients"]
    assert (own["sites"]["south"]["exams"], own["mean"]["combined"]["accuracy"]["sites"]) == (0, 1)


@pytest.mark.soak
@pytest.mark.ci
def test_killed_at_any_instant_a_study_resumes_to_the_same_bits(
    config: Path, whole: synofed.Run, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "import synofed; synofed.main()", "simulate", str(config)]
    command += ["--out", str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": str(Path(synofed.__file__).parent)}
    for attempt in range(3):
        resume = ["--resume"] if attempt else []
        process = subprocess.Popen(
            [*command, *resume], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )
        _wait_for_rounds(tmp_path / "killed" / "journal", more_than=2 * attempt, process=process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = synofed.simulate(config, out=tmp_path / "killed", resume=True)
    _assert_same_networks(whole.path, resumed.path)
    pd.testing.assert_frame_equal(whole.predictions(), resumed.predictions())
    assert whole.metrics() == resumed.metrics()
    rounds = [json.loads(line) for line in (resumed.path / "rounds.jsonl").read_text().splitlines()]
    keys = [(line["system"], line["group"], line["round"]) for line in rounds]
    assert len(keys) == len(set(keys)) == len((whole.path / "rounds.jsonl").read_text().splitlines())


def _wait_for_rounds(journal: Path, *, more_than: int, process: subprocess.Popen[bytes]) -> None:
    def reached() -> bool:
        numbers = [int(path.stem[-6:]) for path in journal.glob("*/round_*.safetensors")]
        return sum(numbers) > more_than or process.poll() is not None

    wait_for(reached, every_s=0.01)


@pytest.mark.soak
@pytest.mark.ci
def test_a_finished_study_that_is_resumed_stays_as_it_was(
    config: Path, whole: synofed.Run, tmp_path: Path
) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    again = synofed.simulate(config, out=tmp_path / "run", resume=True)
    assert again.metrics() == whole.metrics()
    _assert_same_networks(whole.path, again.path)


@pytest.mark.soak
@pytest.mark.ci
@RAY
def test_both_engines_give_the_same_bits(config: Path, tmp_path: Path) -> None:
    short = ["evaluate.baselines=false", "rating.models=1"]
    ours = synofed.simulate(config, out=tmp_path / "ours", overrides=short)
    rays = synofed.simulate(config, out=tmp_path / "ray", overrides=[*short, "compute.engine=ray"])
    _assert_same_networks(ours.path, rays.path)


@pytest.mark.soak
def test_a_ray_worker_that_dies_fails_the_run(cohort: Path, config: Path, tmp_path: Path) -> None:
    module = tmp_path / "deadly.py"
    module.write_text(
        "import os\n"
        "from common.methods.rating import Rating\n"
        "class Deadly(Rating):\n"
        "    def stages(self, settings, results):\n"
        "        if 'ray' in os.environ.get('RAY_WORKER_MARK', '') or os.environ.get('RAY_JOB_ID'):\n"
        "            os._exit(1)\n"
        "        return super().stages(settings, results)\n",
        encoding="utf-8",
    )
    folder = tmp_path / "cohort"
    shutil.copytree(cohort, folder)
    for site in ("north", "south"):
        toml = folder / site / "site.toml"
        toml.write_text(toml.read_text().replace('["*"]', '["deadly:Deadly"]'), encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        "import synofed; synofed.main()",
        "simulate",
        str(config),
        "--engine",
        "ray",
    ]
    command += ["--set", "method=deadly:Deadly", "--set", f"cohort.folder={folder}"]
    command += ["--set", "evaluate.baselines=false", "--out", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": f"{Path(synofed.__file__).parent}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        command,
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1, done.stderr
    assert "worker broke" in done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "FAILED"


@pytest.mark.parametrize(
    ("override", "error", "says"),
    [
        ("federation.round=3", ConfigurationError, "federation.round: no such setting"),
        ("cohort.folder=nowhere", DataError, "nowhere"),
        ("method=nothing", ConfigurationError, "nothing"),
        ("rating.folds=20", DataError, "at least 20 training patients"),
    ],
)
def test_what_is_wrong_is_said_before_a_run_folder_is_made(
    config: Path, tmp_path: Path, override: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        synofed.simulate(config, out=tmp_path / "run", overrides=[override])
    assert not (tmp_path / "run").exists()


def test_a_corrupt_picture_is_quarantined_the_rest_goes_on_and_a_former_run_is_moved_aside(
    cohort: Path, config: Path, finished: Path, tmp_path: Path
) -> None:
    (finished / "mine.txt").write_text("kept", encoding="utf-8")
    folder = tmp_path / "cohort"
    shutil.copytree(cohort, folder, ignore=shutil.ignore_patterns("store"))
    picture = folder / "north" / "images" / "north-p008-e0_gs.png"
    picture.write_bytes(picture.read_bytes()[:60])
    run = synofed.simulate(config, out=finished, overrides=[*FAST, f"cohort.folder={folder}"])
    assert "north-p008-e0" not in set(run.predictions()["exam_id"])
    assert (tmp_path / "run.1" / "mine.txt").exists()
    assert not (finished / "mine.txt").exists()


@pytest.mark.soak
def test_without_validation_scores_the_last_round_is_taken_and_said(
    cohort: Path, config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(cohort, folder, ignore=shutil.ignore_patterns("store"))
    for site in ("north", "south"):
        toml = folder / site / "site.toml"
        toml.write_text(toml.read_text().replace(', "score_histograms"', ""))
    run = synofed.simulate(config, out=tmp_path / "run", overrides=[*FAST, f"cohort.folder={folder}"])
    assert "no validation scores of 6 networks" in (run.path / "log.txt").read_text(encoding="utf-8")


def test_resuming_another_plan_is_refused(config: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="another plan"):
        synofed.simulate(config, out=finished, overrides=[*FAST, "seed=4"], resume=True)
    with pytest.raises(ConfigurationError, match="Expected a run's folder"):
        synofed.simulate(config, out=tmp_path / "none", overrides=FAST, resume=True)


def test_what_one_image_alone_would_have_said_is_its_networks_own_vote(
    whole: synofed.Run, cohort: Path, tmp_path: Path
) -> None:
    frame, first = whole.predictions(), whole.predictions().iloc[:6]
    assert (first["site"] == "north").all()

    def cut(exam: str) -> dict[str, Path]:
        found = {}
        for image in ("gs", "doppler"):
            found[image] = tmp_path / f"{exam}-{image}.png"
            with Image.open(cohort / "north" / "images" / f"{exam}_{image}.png") as picture:
                picture.crop((6, 4, 36, 32)).save(found[image])
        return found

    for image in ("gs", "doppler"):
        votes = []
        for fold in range(2):
            bits = []
            for above in range(3):
                name = f"rating/fold{fold}/hypertrophy/gt{above}/a/{image}"
                trained = network_files.load(network_files.path(whole.path / "networks", name))
                assert not trained.spec.scoring
                network = whole.network(name)
                with torch.inference_mode():
                    asked = [network(whole.pictures(name, cut(exam))) for exam in first["exam_id"]]
                p = torch.cat(asked).softmax(dim=1)[:, 1].numpy()
                bits.append(p >= np.float32(trained.result.threshold))
            votes.append(ecoc.decode(np.stack(bits, axis=1)[:, None]))
        expected = [np.bincount(each, minlength=4).argmax() for each in np.stack(votes, axis=1)]
        assert first[f"only_{image}_hypertrophy"].tolist() == expected
        assert f"only_{image}_vascularity" not in frame
        told = whole.metrics()["single_images"]["hypertrophy"][image]
        right = frame["label_hypertrophy"] == frame["decision_hypertrophy"]
        alone = frame["label_hypertrophy"] == frame[f"only_{image}_hypertrophy"]
        assert (told["helped"], told["hurt"]) == ((right & ~alone).sum(), (~right & alone).sum())
    assert (whole.path / "figures" / "failures" / "examples.json").exists()
