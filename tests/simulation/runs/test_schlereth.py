"""Schlereth's networks over two sites: they learn, resume, and are judged by scan and by patient."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import synofed
from client.app import app as client_app
from client.data.site_store import site_store
from client.site.site import Site
from common.errors import PolicyError
from common.machine import network_files
from common.settings import load
from server.campaign import campaign
from server.campaign.campaign import Event
from server.campaign.roster import Roster
from server.rounds.journal import RoundRecord
from simulation.engine.grid import InProcessGrid, StrictGrid, Workers
from tests.site_folders import make_site_folder, read_table, write_table

CONFIG = """
name = "small"
seed = 3
method = "schlereth"
[images.gs]
kind = "grey"
[measurements.hypertrophy]
images = ["gs"]
[measurements.ra_or_spa]
column = "diagnosis"
classes = [["RA+", "RA-"], ["PsA", "SpA"]]
images = ["gs"]
[measurements.antibodies]
column = "diagnosis"
classes = [["RA-"], ["RA+"]]
images = ["gs"]
[network]
image_px = 16
width = 4
[training]
learning_rate = 0.02
batch_size = 16
local_steps = 8
[federation]
rounds = 6
[rating]
folds = 3
[evaluate]
design = "folds"
hotspots = 2
bootstrap = 100
[cohort]
folder = "{folder}"
"""
DIAGNOSES = ("RA+", "RA-", "PsA")
PATIENTS, EXAMS = 18, 4


def mark(site: Path) -> None:
    """Give every patient a diagnosis that shows: a stripe at the left of PsA, at the right of RA-."""
    rows = read_table(site / "manifest.csv")
    patients = list(dict.fromkeys(row["patient_id"] for row in rows))
    for row in rows:
        row["diagnosis"] = DIAGNOSES[patients.index(row["patient_id"]) % 3]
        path = site / row["gs_path"]
        pixels = np.array(Image.open(path))
        if row["diagnosis"] == "PsA":
            pixels[:, :20] = 255
        elif row["diagnosis"] == "RA-":
            pixels[:, -22:] = 255
        Image.fromarray(pixels).save(path)
    write_table(site / "manifest.csv", rows)
    policy = (site / "site.toml").read_text(encoding="utf-8")
    permitted = policy.replace("[policy]\n", "[policy]\ndiagnosis = true\ndiagnosis_cohort = 3\n")
    (site / "site.toml").write_text(permitted, encoding="utf-8")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schlereth")
    for seed, name in enumerate(("north", "south")):
        site = make_site_folder(
            folder / "cohort" / name,
            name=name,
            patients=PATIENTS,
            exams_per_patient=EXAMS,
            seed=seed,
            images=("gs",),
            measurements=("hypertrophy",),
            devices=("one", "two"),
        )
        mark(site)
    (folder / "small.toml").write_text(CONFIG.format(folder=folder / "cohort"), encoding="utf-8")
    return folder / "small.toml"


@pytest.fixture(scope="module")
def run(config: Path) -> synofed.Run:
    return synofed.simulate(config, out=config.parent / "run")


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {n.spec.name: np.asarray(n.weights) for n in network_files.load_all(folder / "networks")}


def test_each_fold_has_each_machine_and_each_diagnosis_and_no_patient_is_in_two(config: Path) -> None:
    settings = load(config)
    for name in ("north", "south"):
        exams = site_store(Site.open(config.parent / "cohort" / name), settings).exams
        assert set(exams["fold"]) == {0, 1, 2}
        assert exams.groupby("patient_id")["fold"].nunique().eq(1).all()
        strata = exams.groupby(["fold", "device", "diagnosis"])["patient_id"].nunique()
        assert strata.tolist() == [1] * (3 * 2 * 3)


@pytest.mark.soak
@pytest.mark.ci
def test_it_learns_to_grade_and_to_tell_diagnoses_apart(run: synofed.Run) -> None:
    folds = run.metrics()["folds"]
    for task, least in {"hypertrophy": 0.65, "ra_or_spa": 0.85, "antibodies": 0.85}.items():
        assert folds[task]["auc_weighted"]["mean"] > least, (task, folds[task]["auc_weighted"])


@pytest.mark.soak
@pytest.mark.ci
def test_scans_and_patients_are_measured_apart(run: synofed.Run) -> None:
    frame, metrics = run.predictions(), run.metrics()
    known = frame[frame["label_antibodies"] >= 0]
    assert len(known) == 2 * EXAMS * PATIENTS * 2 // 3
    by_scan = [
        balanced_accuracy_score(part["label_antibodies"], part["decision_antibodies"])
        for _, part in known.groupby("fold")
    ]
    assert metrics["folds"]["antibodies"]["balanced_accuracy"]["folds"] == pytest.approx(by_scan)
    by_scan = [
        roc_auc_score(part["label_antibodies"], part["p:schlereth/antibodies/gt0"])
        for _, part in known.groupby("fold")
    ]
    assert metrics["folds"]["antibodies"]["auc_weighted"]["folds"] == pytest.approx(by_scan)
    patients = known.groupby(["site", "patient_id", "fold"], as_index=False)[
        ["label_antibodies", "p:schlereth/antibodies/gt0"]
    ].mean()
    by_patient = metrics["folds_by_patient"]["antibodies"]
    assert by_patient["patients"] == len(patients) == 2 * PATIENTS * 2 // 3
    assert np.sum(by_patient["confusion"]) == len(patients)
    areas = [
        roc_auc_score(part["label_antibodies"], part["p:schlereth/antibodies/gt0"])
        for _, part in patients.groupby("fold")
    ]
    assert by_patient["auc_weighted"]["folds"] == pytest.approx(areas)
    assert set(metrics["folds_by_patient"]) == {"ra_or_spa", "antibodies"}  # a grade is a joint's own
    assert np.sum(metrics["antibodies"]["confusion"]) == len(known)  # the folds together


@pytest.mark.soak
def test_the_report_shows_both(run: synofed.Run) -> None:
    html = synofed.report(run).read_text(encoding="utf-8")
    assert "by patient" in html
    assert "ra_or_spa" in html


@pytest.mark.soak
def test_interrupted_it_resumes_to_the_same_bits(run: synofed.Run, config: Path, tmp_path: Path) -> None:
    settings, rounds = load(config), []

    def stop_after_three(event: Event) -> None:
        rounds.append(event) if isinstance(event, RoundRecord) else None
        if len(rounds) == 3:
            raise KeyboardInterrupt

    with Workers(("cpu",), threads=1) as pool:
        for observer in (stop_after_three, lambda event: None):
            folders = [config.parent / "cohort" / site for site in ("north", "south")]
            grid = StrictGrid(InProcessGrid(client_app, folders, pool))
            asked = partial(campaign.run, grid, settings, roster=Roster.anyone(2), folder=tmp_path)
            if observer is stop_after_three:
                with pytest.raises(KeyboardInterrupt):
                    asked(campaign="test", observer=observer)
            else:
                asked(campaign="test", observer=observer)
    first, second = weights(run.path), weights(tmp_path)
    assert list(first) == list(second) != []
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_without_the_policy_a_simulation_says_what_to_permit(config: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(config.parent / "cohort", cohort)
    toml = cohort / "north" / "site.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("diagnosis = true\n", ""), encoding="utf-8")
    asked = tmp_path / "small.toml"
    asked.write_text(CONFIG.format(folder=cohort), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"set policy.diagnosis = true"):
        synofed.simulate(asked, out=tmp_path / "run")


@pytest.mark.soak
def test_hotspots_are_of_each_predicted_class_and_in_the_report(run: synofed.Run) -> None:
    """Two scans of each predicted class, of as many patients; something in them is marked yellow."""
    for task in ("ra_or_spa", "antibodies"):
        sheet = Image.open(run.path / "figures" / "hotspots" / f"{task}.png")
        assert sheet.height > 4 * 16
        colours = np.asarray(sheet.convert("RGB")).astype(int)
        yellow = (colours[..., 0] > 200) & (colours[..., 1] > 200) & (colours[..., 2] < 80)
        assert yellow.any()
    html = synofed.report(run).read_text(encoding="utf-8")
    assert "Hotspots of diagnoses" in html
    assert html.count("Hotspots of ") == 3
