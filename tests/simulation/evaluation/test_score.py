import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import synofed
from client.ensemble import scoring
from common.errors import ConfigurationError, DataError
from common.exam import ImageRef, Roi
from common.text import csv_text
from simulation.evaluation import score
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder, read_table, write_table

CPU = torch.device("cpu")
ROI = "6 4 30 28"
FAST = ["federation.rounds=1", "evaluate.baselines=false", "rating.fusion=joint"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    make_site_folder(folder / "north", name="north", patients=8, exams_per_patient=3, held_out_patients=3)
    return folder


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> synofed.Run:
    folder = tmp_path_factory.mktemp("run")
    config = folder / "small.toml"
    config.write_text(CONFIG.format(folder=cohort), encoding="utf-8")
    return synofed.simulate(config, out=folder / "run", overrides=FAST)


@pytest.fixture
def site(cohort: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy that may be damaged."""
    yield shutil.copytree(cohort / "north", tmp_path / "north", ignore=shutil.ignore_patterns("store"))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["synofed", "score", *map(str, arguments)])
    with pytest.raises(SystemExit) as raised:
        synofed.main()
    return int(raised.value.code or 0)


def _refs(site: Path, exam_id: str) -> dict[str, ImageRef]:
    return {
        name: ImageRef(path=str(site / "images" / f"{exam_id}_{name}.png"), roi=Roi.parse(ROI))
        for name in ("gs", "doppler")
    }


def test_pictures_score_as_the_same_exam_did_in_the_run(run: synofed.Run, cohort: Path) -> None:
    committee = score.open_committee(run.path)
    predictions = run.predictions()
    assert len(predictions) == 9
    for _, row in predictions.iterrows():
        scores = scoring.score_exam(committee, _refs(cohort / "north", row["exam_id"]))
        for name, values in score.score_columns(scores).items():
            assert np.asarray(values).tolist() == [row[name]], name
        for name, values in scores.probabilities().items():
            assert values[0] == pytest.approx(row[f"p:{name}"], rel=1e-4, abs=1e-5)
        assert scores.combined is not None
        assert scores.combined[0] == max(row["decision_hypertrophy"], row["decision_vascularity"])


def test_the_roi_is_what_is_scored(run: synofed.Run, cohort: Path) -> None:
    committee = score.open_committee(run.path)
    cut = _refs(cohort / "north", "north-p007-e0")
    whole = {name: ImageRef(path=ref.path) for name, ref in cut.items()}
    one, other = (
        np.stack(list(scoring.score_exam(committee, refs).probabilities().values())) for refs in (cut, whole)
    )
    assert not np.allclose(one, other)


def test_a_manifest_scores_as_its_exams_do_one_by_one(run: synofed.Run, cohort: Path) -> None:
    committee = score.open_committee(run.path)
    steps: list[tuple[int, int]] = []
    table = score.score_manifest(
        committee,
        cohort / "north" / "manifest.csv",
        progress=lambda done, total: steps.append((done, total)),
    )
    pd.testing.assert_frame_equal(table, synofed.score_manifest(run, cohort / "north" / "manifest.csv"))
    assert len(table) == 24
    assert steps[-1] == (24, 24)
    assert (table["reason"] == "").all()
    for _, row in table.iloc[::5].iterrows():
        scores = scoring.score_exam(committee, _refs(cohort / "north", row["exam_id"]))
        for name, values in score.score_columns(scores).items():
            assert np.asarray(values).tolist() == [row[name]], name


def test_more_exams_than_a_batch_stay_in_their_order(
    run: synofed.Run, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committee = score.open_committee(run.path)
    whole = score.score_manifest(committee, site / "manifest.csv")
    monkeypatch.setattr(score, "BATCH", 5)
    (site / "images" / "north-p007-e2_gs.png").unlink()  # the last one
    (site / "images" / "north-p000-e1_doppler.png").unlink()
    table = score.score_manifest(committee, site / "manifest.csv")
    assert list(table["exam_id"]) == list(whole["exam_id"])
    left_out = table["reason"] != ""
    assert list(table.loc[left_out, "exam_id"]) == ["north-p000-e1", "north-p007-e2"]
    assert table.loc[left_out].drop(columns=["exam_id", "reason"]).isna().all(axis=None)
    pd.testing.assert_frame_equal(table[~left_out], whole[~left_out])


def test_a_manifest_needs_no_patients_grades_or_rois(run: synofed.Run, site: Path) -> None:
    rows = read_table(site / "manifest.csv")[:2]
    wanted = ("exam_id", "gs_path", "doppler_path")
    write_table(site / "new.csv", [{name: row[name] for name in wanted} for row in rows])
    table = score.score_manifest(score.open_committee(run.path), site / "new.csv")
    assert table["decision_hypertrophy"].between(0, 3).all()


def test_bad_rows_of_a_manifest_are_listed_all_at_once(run: synofed.Run, site: Path) -> None:
    rows = read_table(site / "manifest.csv")[:4]
    rows[1]["gs_roi"] = "1 2 3"
    rows[2]["doppler_path"] = "../elsewhere.png"
    rows[3]["exam_id"] = rows[0]["exam_id"]
    write_table(site / "new.csv", rows)
    with pytest.raises(
        DataError, match=r"3 errors(?s:.)*line 3: gs_roi(?s:.)*line 4: doppler(?s:.)*line 5: exam_id"
    ):
        score.score_manifest(score.open_committee(run.path), site / "new.csv")


def test_two_sites_may_have_the_same_exam_ids(run: synofed.Run, site: Path) -> None:
    rows = read_table(site / "manifest.csv")[:2]
    both = [row | {"exam_id": "=1", "site": name} for row, name in zip(rows, ("north", "south"), strict=True)]
    write_table(site / "new.csv", both)
    table = score.score_manifest(score.open_committee(run.path), site / "new.csv")
    assert table[["site", "exam_id"]].to_numpy().tolist() == [["north", "=1"], ["south", "=1"]]
    assert csv_text.of_frame(table).splitlines()[1].startswith("north,'=1,")
    write_table(site / "new.csv", [row | {"site": "north"} for row in both])
    with pytest.raises(DataError, match="line 3: exam_id is '=1', expected an identifier of its own"):
        score.score_manifest(score.open_committee(run.path), site / "new.csv")


def test_a_manifest_without_any_usable_picture_is_an_error(run: synofed.Run, site: Path) -> None:
    shutil.rmtree(site / "images")
    with pytest.raises(DataError, match="got none, for example:\n  north-p000-e0: gs_path"):
        score.score_manifest(score.open_committee(run.path), site / "manifest.csv")


def test_a_run_without_all_its_networks_is_refused(run: synofed.Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "copy")
    (copy / "networks" / "rating.fold0.vascularity.gt1.a.safetensors").unlink()
    with pytest.raises(DataError, match="rating/fold0/vascularity/gt1/a"):
        score.open_committee(copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    del manifest["networks"]
    (copy / "manifest.json").write_text(json.dumps(manifest | {"status": "RUNNING"}), encoding="utf-8")
    with pytest.raises(DataError, match="its status is RUNNING"):
        score.open_committee(copy)


def test_the_runs_device_unless_another_is_named(run: synofed.Run) -> None:
    compute = score.open_committee(run.path).settings.compute
    assert score.choose_device(compute, "cpu") == CPU
    fallback = score.choose_device(compute.model_copy(update={"devices": ("4711",)}))
    assert fallback.type in ("cpu", "cuda")
    for name in ("4711", "abacus"):
        with pytest.raises(ConfigurationError, match=r"Expected .* devices?"):
            score.choose_device(compute, name)


def test_the_command_prints_scores_votes_weights_and_notices(
    run: synofed.Run, cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refs = _refs(cohort / "north", "north-p006-e1")
    pictures = ["--gs", refs["gs"].path, "--doppler", refs["doppler"].path]
    boxes = ["--roi", f"gs={ROI}", "--roi", f"doppler={ROI}"]
    assert command(monkeypatch, run.path, *pictures, *boxes) == 0
    text = capsys.readouterr().out
    for word in ("hypertrophy", "vascularity", "combined", "runner-up", "Research use only"):
        assert word in text
    assert "No differential privacy" in text
    assert "Whole picture" not in text
    named = ["--image", f"gs={refs['gs'].path}", "--image", f"doppler={refs['doppler'].path}"]
    assert command(monkeypatch, run.path, *named, *boxes, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    paths, regions = {name: ref.path for name, ref in refs.items()}, dict.fromkeys(refs, ROI)
    answer = synofed.score(run, paths, regions=regions, device="cpu")
    assert answer | {"heatmaps": []} == content
    with pytest.raises(ConfigurationError, match="doppler"):
        synofed.score(run.path, {"gs": paths["gs"]})
    with pytest.raises(ConfigurationError, match=r"region .* got us"):
        synofed.score(run.path, paths, regions={"us": ROI})
    row = run.predictions().set_index("exam_id").loc["north-p006-e1"]
    assert row["tie"]
    assert "Tie: another answer fits the votes as well" in text
    assert "Not contested" not in text
    for name in ("hypertrophy", "vascularity"):
        above = content["measurements"][name].pop("above")
        for cut, found in enumerate(above):
            columns = [c for c in row.index if c.startswith("p:") and f"/{name}/gt{cut}/" in c]
            assert found == pytest.approx(row[columns].astype(float).mean(), abs=1e-3)
        assert len(above) == 3
        assert " ".join(f"{100 * p:.0f}" for p in above) in text
        assert content["measurements"][name] == {
            "decision": row[f"decision_{name}"],
            "votes": [row[f"vote_{name}_0"], row[f"vote_{name}_1"]],
            "plurality": row[f"majority_{name}"],
            "set": None,
        }
    assert content["weight"] == row["weight"]
    assert content["runner_up_weight"] == row["runner_up_weight"]
    assert content["contested"] == row["contested"]
    assert content["tie"] == row["tie"]
    assert content["largest_weight"] == 4
    assert command(monkeypatch, run.path, *pictures) == 0
    assert "Whole picture taken as region of interest: gs, doppler" in capsys.readouterr().out


def test_the_command_scores_a_manifest_to_csv(
    run: synofed.Run,
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = site / "images" / "north-p006-e1_doppler.png"
    picture.write_bytes(picture.read_bytes()[:80])
    out = tmp_path / "scores.csv"
    assert command(monkeypatch, run.path, "--manifest", site / "manifest.csv", "--out", out) == 0
    said = capsys.readouterr()
    assert "23 exams scored, 1 quarantined" in said.out
    assert "quarantined north-p006-e1: doppler_path" in said.err
    table = pd.read_csv(out, keep_default_na=False).set_index("exam_id")
    assert "doppler_path: expected a whole PNG" in str(table.loc["north-p006-e1", "reason"])
    assert table.loc["north-p006-e1", "decision_hypertrophy"] == ""
    predictions = run.predictions().set_index("exam_id").drop("north-p006-e1")
    for name in ("decision_hypertrophy", "vote_vascularity_1", "weight"):
        assert (table.loc[predictions.index, name].astype(int) == predictions[name]).all()
    assert command(monkeypatch, run.path, "--manifest", site / "manifest.csv", "--out", out, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["scored"], content["quarantined"]) == (23, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--manifest"),
        (["--gs", "a.png", "--manifest", "b.csv", "--out", "c.csv"], 2, "--manifest"),
        (["--manifest", "b.csv"], 2, "--out"),
        (["--gs", "a.png"], 3, "Expected a picture for each of gs, doppler, got gs"),
        (["--gs", "a.png", "--image", "liver=b.png"], 3, "got liver, gs"),
        (["--gs", "a.png", "--image", "gs=b.png"], 3, "each name once"),
        (["--gs", "a.png", "--doppler", "b.png", "--roi", "gs=1 2 3"], 3, "x y width height"),
        (["--gs", "a.png", "--doppler", "b.png", "--roi", "liver=1 2 3 4"], 3, "liver"),
        (["--gs", "a.png", "--doppler", "b.png"], 4, "The picture gs at a.png cannot be scored"),
        (["--manifest", "nowhere.csv", "--out", "c.csv"], 4, "Expected a table at nowhere.csv"),
    ],
)
def test_what_is_wrong_has_its_exit_code(
    run: synofed.Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, run.path, *arguments) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "c.csv").exists()


def test_a_folder_that_is_no_run_has_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, tmp_path, "--gs", "a.png") == 3
    assert "Expected a run's folder" in capsys.readouterr().err
