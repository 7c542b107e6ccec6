"""A simulation's sites judge the ensemble through the same requests as hospitals, and what they tell is exact."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

import synofed
from common.errors import ConfigurationError
from common.evaluation import bootstrap, calibration, conformal, roc
from common.evaluation.agreement import METRICS
from common.evaluation.inside import site_tables
from common.exam import MISSING
from common.scoring import eoss
from server.report import inside, inside_tables, tables
from server.rounds import site_results
from simulation.cli import researcher_cli, score_cli
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_settings, make_site_folder

DEVICES = ("Resona 7", "Logiq E9")
PUZZLES = """
[rating.jigsaw]
image_px = 24
tile_px = 8
permutations = 4
rounds = 1
[campaign]
evaluation = true
statistics = true
cases = true
"""
"""All three stages of RATING, so that networks are built on others; baselines are asked for no single exam."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> synofed.Run:
    folder = tmp_path_factory.mktemp("inside")
    for seed, name in enumerate(("north", "south")):
        site = make_site_folder(
            folder / "cohort" / name,
            name=name,
            patients=14,
            seed=seed,
            held_out_patients=8,
            devices=DEVICES,
            roi=None,
        )
        if name == "north":
            toml = (site / "site.toml").read_text(encoding="utf-8")
            (site / "site.toml").write_text(
                toml.replace('"score_histograms"', '"score_histograms", "statistics"')
                + "federated_evaluation = true\n",
                encoding="utf-8",
            )
    config = folder / "small.toml"
    text = CONFIG.format(folder=folder / "cohort").replace("[cohort]", f"{PUZZLES}[cohort]")
    config.write_text(text, encoding="utf-8")
    overrides = ["federation.rounds=1", "evaluate.baseline_models=1", "federation.group_bytes=20000"]
    return synofed.simulate(config, out=folder / "run", overrides=overrides)


def by_hand(frame: pd.DataFrame, score: str, device: str) -> np.ndarray:
    """North's counts, from a table of predictions, which only a simulation has."""
    part = frame[(frame["site"] == "north") & (frame["device"] == device)]
    if score == "combined":
        truth = eoss.combined_or_missing(
            *(part[f"label_{name}"].to_numpy() for name in ("hypertrophy", "vascularity"))
        )
        decision = part[["decision_hypertrophy", "decision_vascularity"]].max(axis=1).to_numpy()
    else:
        truth, decision = part[f"label_{score}"].to_numpy(), part[f"decision_{score}"].to_numpy()
    known = truth != MISSING
    found = np.zeros((4, 4), dtype=np.int64)
    np.add.at(found, (truth[known], decision[known]), 1)
    return found


@pytest.mark.soak
def test_the_tables_equal_the_pooled_computation_exactly(run: synofed.Run) -> None:
    found, frame = site_results.tables(run.path), run.predictions()
    assert list(found) == ["north"]
    assert {(one.score, one.device) for one in found["north"].tables} == {
        (score, device) for score in ("hypertrophy", "vascularity", "combined") for device in DEVICES
    }
    for one in found["north"].tables:
        np.testing.assert_array_equal(np.array(one.confusion), by_hand(frame, one.score, one.device))
        assert bool(one.histograms) == (one.score != "combined")


@pytest.mark.soak
def test_what_a_site_trained_alone_stands_beside_as_many_of_the_ensembles_models(run: synofed.Run) -> None:
    baselines = pd.read_parquet(run.path / "predictions_baselines.parquet")
    frames = dict(iter(baselines.groupby("system")))
    (north,) = site_results.tables(run.path).values()
    for one in north.tables:
        assert one.beside is not None
        assert one.beside.models == 1
        for name, counts in (("alone:north", one.beside.alone), ("federated", one.beside.together)):
            np.testing.assert_array_equal(np.array(counts), by_hand(frames[name], one.score, one.device))
    gains = inside.read(run.path)["gains"]["hypertrophy"]
    own = run.metrics()["own_patients"]["sites"]["north"]["hypertrophy"]["accuracy"]
    assert gains["sites"]["north"]["exams"] == sum(o.exams for o in north.tables if o.score == "hypertrophy")
    if run.metrics()["reference"] != "truth":
        assert gains["mean"]["accuracy"]["gain"]["value"] == pytest.approx(own["gain"]["value"])
    assert "Alone against together" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.soak
def test_histograms_hold_the_ensembles_probabilities(run: synofed.Run) -> None:
    (north,) = site_results.tables(run.path).values()
    table = next(one for one in north.tables if (one.score, one.device) == ("hypertrophy", DEVICES[0]))
    told = site_tables.histograms([table])
    assert [cut.exams for cut in told] == [
        (np.array(table.confusion)[: cut + 1].sum(), np.array(table.confusion)[cut + 1 :].sum())
        for cut in range(3)
    ]


@pytest.mark.soak
def test_the_report_has_each_table_and_how_far_probabilities_hold(run: synofed.Run) -> None:
    """Of whoever may tell it: site by machine by grade, and at each cut what the single probabilities would give."""
    frame = run.predictions()
    header, rows = inside_tables.grades_table(run.path)
    assert header == ("Reference", "Decided 0", "Decided 1", "Decided 2", "Decided 3", "Exams")
    shown = {label: [int(text) for text, _ in cells] for label, cells in rows}
    for score in ("hypertrophy", "combined"):
        for device in DEVICES:
            counts = by_hand(frame, score, device)
            for grade in range(4):
                cells = shown[f"{tables.title(score)} {grade}\nnorth, {device}"]
                assert cells == [*counts[grade].tolist(), counts[grade].sum()]
    entry = inside.read(run.path)["pooled"]["hypertrophy"]
    part = frame[(frame["site"] == "north") & (frame["label_hypertrophy"] != MISSING)]
    for cut in entry["cuts"]:
        named = [n for n in part if str(n).startswith("p:") and f"hypertrophy/gt{cut['above']}" in str(n)]
        scores = part[named].mean(axis=1).to_numpy(dtype=float)
        labels = (part["label_hypertrophy"] > cut["above"]).to_numpy()
        weights = np.ones((1, len(part)))
        assert cut["exams"] == len(part)
        assert cut["brier"] == pytest.approx(
            calibration.weighted_brier(scores, labels, weights)[0], abs=2 / 256
        )
        assert cut["auc"] == pytest.approx(roc.auc(scores, labels), abs=0.05)
    html = (run.path / "report.html").read_text(encoding="utf-8")
    for said in (
        "Grades by site and machine",
        "How far its probabilities hold",
        "as the sites that trained counted",
    ):
        assert said in html


def efforts_by_hand(frame: pd.DataFrame, device: str) -> np.ndarray:
    here = (frame["site"] == "north") & (frame["device"] == device) & (frame["label_hypertrophy"] != MISSING)
    part = frame[here]
    named = [str(column) for column in part if str(column).startswith("p:") and "hypertrophy" in str(column)]
    above = [
        part[[n for n in named if f"gt{cut}" in n]].mean(axis=1).to_numpy(dtype=float) for cut in range(3)
    ]
    chances = conformal.probabilities(np.stack(above, axis=1))
    found = conformal.efforts(chances, part["decision_hypertrophy"].to_numpy())
    return np.asarray(found[np.arange(len(part)), part["label_hypertrophy"].to_numpy()])


@pytest.mark.soak
def test_efforts_of_both_halves_are_those_of_the_table_of_predictions(run: synofed.Run) -> None:
    (north,) = site_results.tables(run.path).values()
    for device in DEVICES:
        (table,) = [one for one in north.tables if (one.score, one.device) == ("hypertrophy", device)]
        assert table.conformity is not None
        both = np.array(table.conformity.calibration) + np.array(table.conformity.reference)
        bins = np.minimum(efforts_by_hand(run.predictions(), device) * 256, 255).astype(int)
        np.testing.assert_array_equal(both, np.bincount(bins, minlength=256))
        assert sum(table.conformity.calibration) > 0 < sum(table.conformity.reference)


@pytest.mark.soak
def test_the_report_and_the_score_of_an_exam_tell_the_sets(run: synofed.Run) -> None:
    assert set(inside.thresholds(run.path)) == {"hypertrophy", "vascularity"}
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Sets of grades" in html
    assert "surest of" in html
    picture = next((run.path.parent / "cohort" / "north" / "images").glob("*_gs.png"))
    doppler = picture.with_name(picture.name.replace("_gs", "_doppler"))
    app = typer.Typer()
    app.command()(score_cli.score)
    done = CliRunner().invoke(app, [str(run.path), "--gs", str(picture), "--doppler", str(doppler), "--json"])
    for measurement in json.loads(done.stdout)["measurements"].values():
        shown = measurement["set"]
        assert measurement["decision"] in shown
        assert shown == list(range(shown[0], shown[-1] + 1))
    named = json.loads(done.stdout)["measurements"]["hypertrophy"]["set"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, [str(run.path), "--gs", str(picture), "--doppler", str(doppler)]
    )
    assert "set at 90 %" in done.stdout
    assert " ".join(map(str, named)) in done.stdout
    many = synofed.score_manifest(run, run.path.parent / "cohort" / "north" / "manifest.csv")
    for row in many.to_dict("records"):
        assert str(row["decision_hypertrophy"]) in row["set_hypertrophy"].split()


@pytest.mark.soak
def test_every_network_says_of_an_exams_pictures_what_the_run_noted(run: synofed.Run) -> None:
    """Fused ones, whose parts lie in other networks, too."""
    row = run.predictions().set_index("exam_id").loc["north-p013-e0"]
    images = run.path.parent / "cohort" / "north" / "images"
    exam = {name: images / f"north-p013-e0_{name}.png" for name in ("gs", "doppler")}
    names = [str(column).removeprefix("p:") for column in row.index if str(column).startswith("p:")]
    assert any("hypertrophy" in name for name in names)
    for name in names:
        pictures = run.pictures(name, exam)
        with torch.inference_mode():
            probabilities = run.network(name)(pictures).softmax(dim=1)[0]
        assert float(probabilities[1]) == pytest.approx(float(row[f"p:{name}"]), abs=1e-5)
    with pytest.raises(ConfigurationError, match="Expected a picture for each of gs, doppler, got gs"):
        run.pictures(next(name for name in names if "hypertrophy" in name), {"gs": exam["gs"]})


@pytest.mark.soak
def test_what_sites_have_was_told_before_training(run: synofed.Run) -> None:
    (north,) = site_results.statistics(run.path).values()
    assert sum(north.characteristics["device"].values.values()) == 14
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "What the sites have" in html
    assert "grade 3" in html


@pytest.mark.soak
def test_a_site_that_permits_nothing_is_named_with_its_reason(run: synofed.Run) -> None:
    assert list(site_results.without(run.path)) == ["south"]
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "As the sites judged it" in html
    assert "south gave none: refused: policy" in html


@pytest.mark.soak
def test_the_report_can_be_written_again_and_says_the_same(run: synofed.Run) -> None:
    before = (run.path / "report.html").read_text(encoding="utf-8")
    app = typer.Typer()
    app.command()(researcher_cli.report)
    assert CliRunner().invoke(app, [str(run.path)]).exit_code == 0
    assert (run.path / "report.html").read_text(encoding="utf-8") == before


def test_a_plan_that_does_not_ask_has_the_hash_that_it_had() -> None:
    plain = make_settings()
    asking = make_settings(text="[campaign]\nevaluation = true\n")
    assert "evaluation" not in json.loads(plain.plan_json())["campaign"]
    assert json.loads(asking.plan_json())["campaign"]["evaluation"] is True
    assert plain.plan_hash() != asking.plan_hash()


def test_tables_without_noise_do_not_go_with_privacy() -> None:
    private = (
        '[privacy]\nmechanism = "none"\npatients = 10\nmax_grad_norm = 1.0\n[campaign]\nevaluation = true\n'
    )
    with pytest.raises(ConfigurationError, match="evaluation is for campaigns without"):
        make_settings(text=private)


@pytest.mark.slow
@pytest.mark.soak
def test_intervals_on_phantoms_are_as_wide_as_the_pooled_bootstraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the delta method over sites' tables, against drawing the patients of all sites in one place."""
    monkeypatch.chdir(tmp_path)  # cohorts are made in the working folder
    phantoms = (
        "[cohort.phantom]\nsites = 2\npatients = 40\nexams_per_patient = 4\nheld_out = 0.6\nimage_px = 64\n"
        "unseen_device = false\n[campaign]\nevaluation = true\n"
    )
    (tmp_path / "phantoms.toml").write_text(CONFIG.partition("[cohort]")[0] + phantoms, encoding="utf-8")
    overrides = ["evaluate.baselines=false", "federation.rounds=1"]
    run = synofed.simulate(tmp_path / "phantoms.toml", out=tmp_path / "run", overrides=overrides)
    frame, judged = run.predictions(), inside.read(run.path)["pooled"]
    patients, patient = np.unique(frame["site"] + "/" + frame["patient_id"], return_inverse=True)
    draws = bootstrap.resamples(len(patients), replicates=20_000, generator=np.random.default_rng(0))
    for score in ("hypertrophy", "vascularity"):
        graded = (frame[f"label_{score}"] != MISSING).to_numpy()
        counts = bootstrap.patient_confusions(
            frame[f"label_{score}"].to_numpy()[graded],
            frame[f"decision_{score}"].to_numpy()[graded],
            patient[graded],
            grades=4,
            patients=len(patients),
        )
        for name in ("accuracy", "kappa_linear"):
            pooled, found = bootstrap.estimate(METRICS[name], counts, draws), judged[score][name]
            low, high = found["ci95"]
            assert found["value"] == pytest.approx(pooled.value)
            assert high - low == pytest.approx(pooled.high - pooled.low, rel=0.1)
