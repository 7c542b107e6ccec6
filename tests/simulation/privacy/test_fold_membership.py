from pathlib import Path

import pandas as pd
import pytest

import synofed
from common.errors import DataError
from common.settings import Settings
from server.runs.run_folder import RunFolder
from simulation.privacy import fold_membership as fold_membership_audit
from simulation.privacy.fold_membership import fold_membership
from simulation.privacy.privacy_audit import Given, audit
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder

PATIENTS, HELD_OUT = 24, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> synofed.Run:
    folder = tmp_path_factory.mktemp("membership")
    make_site_folder(
        folder / "cohort" / "north",
        name="north",
        patients=PATIENTS,
        exams_per_patient=2,
        held_out_patients=HELD_OUT,
    )
    config = folder / "small.toml"
    config.write_text(CONFIG.format(folder=folder / "cohort"), encoding="utf-8")
    return synofed.simulate(
        config, out=folder / "run", overrides=["federation.rounds=1", "evaluate.baselines=false"]
    )


def settings(run: synofed.Run) -> Settings:
    return RunFolder(run.path).settings()


@pytest.mark.soak
def test_a_runs_networks_are_asked_about_the_patients_who_trained_them(run: synofed.Run) -> None:
    held_out = pd.read_parquet(run.path / "predictions.parquet")
    assert held_out["patient_id"].nunique() == HELD_OUT  # nobody to attack there
    found = fold_membership(
        run.path / "networks", [run.path.parent / "cohort" / "north"], settings(run), delta=1e-5
    )
    assert found.patients == PATIENTS - HELD_OUT
    assert found.folds == 2
    assert 0 <= found.bound <= found.ceiling
    assert 0 <= found.area <= 1


@pytest.mark.soak
@pytest.mark.ci
def test_an_empirical_audit_of_the_run_tells_it(run: synofed.Run) -> None:
    label = "Fold membership audit"
    told = audit(run.path, Given(canaries=10)).facts[label]
    assert told.startswith(f"Networks of 2 folds on the {PATIENTS - HELD_OUT} patients who trained them.")
    assert label not in audit(run.path, Given()).facts
    assert "held-out exams alone" in fold_membership_audit.told(run.path, [], settings(run))


@pytest.mark.soak
@pytest.mark.ci
def test_networks_of_one_fold_cannot_be_audited(run: synofed.Run, tmp_path: Path) -> None:
    (tmp_path / "networks").mkdir()
    for found in (run.path / "networks").glob("*fold0*"):
        (tmp_path / "networks" / found.name).write_bytes(found.read_bytes())
    with pytest.raises(DataError, match="at least two folds"):
        fold_membership(tmp_path / "networks", [], settings(run))
