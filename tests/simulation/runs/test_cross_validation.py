"""Cross-validation over sites: nobody is held out, each exam is judged by networks that never saw its patient.

The method is a user's own: a number and its ordered classes, one network each and fold.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import torch

import synofed
from client.data.site_store import site_store
from client.site.site import Site
from common.imaging.prepare import picture
from common.methods.stages import NetworkResult, Output, Stage
from common.networks.spec import NetworkSpec, Target
from common.settings import Settings, load
from tests.site_folders import make_site_folder

CONFIG = """
name = "scores"
method = "tests.simulation.runs.test_cross_validation:Scores"
[images.hands]
kind = "grey"
[numbers.score]
largest = 3
images = ["hands"]
[measurements.severity]
number = "score"
edges = [1, 2, 3]
images = ["hands"]
[network]
image_px = 16
width = 4
[training]
learning_rate = 0.01
batch_size = 16
local_steps = 12
[federation]
rounds = 6
group_bytes = 50_000_000
[rating]
folds = 3
[evaluate]
design = "folds"
bootstrap = 100
[cohort]
folder = "{folder}"
"""


class Scores:
    """One regression and one ordinal network for each fold."""

    def stages(self, settings: Settings, results: Mapping[str, NetworkResult]) -> Iterator[Stage]:
        """All at once."""
        number = Target(measurement="score", kind="regression", threshold=None, classes=3, edges=(0.34, 0.67))
        grades = Target(measurement="severity", kind="ordinal", threshold=None, classes=4)
        yield Stage(
            name="scoring",
            networks=tuple(
                NetworkSpec(
                    name=f"scores/fold{fold}/{target.measurement}",
                    images=("hands",),
                    target=target,
                    fold=fold,
                )
                for fold in range(settings.rating.folds)
                for target in (number, grades)
            ),
        )

    def scores(self, settings: Settings) -> Mapping[str, int]:
        """The classes; the number is said beside them."""
        return {"severity": 4}

    def votes(self, outputs: Sequence[Output], settings: Settings) -> np.ndarray:
        """One vote of each fold's network."""
        said = [o.probabilities.argmax(axis=1) for o in outputs if o.spec.target.kind == "ordinal"]
        return np.stack(said, axis=1)[:, :, None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> synofed.Run:
    folder = tmp_path_factory.mktemp("scores")
    for seed, name in enumerate(("north", "south")):
        make_site_folder(
            folder / "cohort" / name,
            name=name,
            patients=12,
            exams_per_patient=4,
            seed=seed,
            images=("hands",),
            measurements=("score",),
        )
    (folder / "scores.toml").write_text(CONFIG.format(folder=folder / "cohort"), encoding="utf-8")
    return synofed.simulate(folder / "scores.toml", out=folder / "run")


@pytest.mark.soak
@pytest.mark.ci
def test_everybody_is_judged_once_by_a_fold_of_their_own(run: synofed.Run) -> None:
    frame = run.predictions()
    assert len(frame) == 2 * 12 * 4
    assert frame.groupby(["site", "exam_id"]).size().eq(1).all()
    folds = frame.groupby(["site", "patient_id"])["fold"].nunique()
    assert folds.eq(1).all()
    assert set(frame["fold"]) == {0, 1, 2}
    assert [c for c in frame if c.startswith("vote_")] == ["vote_severity_0"]
    assert "p:scores/score" in frame
    assert frame["p:scores/severity:0"].notna().all()


@pytest.mark.soak
@pytest.mark.ci
def test_each_answer_is_of_the_network_that_left_the_patient_out(run: synofed.Run) -> None:
    frame = run.predictions().set_index(["site", "exam_id"])
    settings = load(run.path / "config.toml")
    for site in ("north", "south"):
        store = site_store(Site.open(run.path.parent / "cohort" / site), settings)
        for fold in range(3):
            exams = torch.nonzero(store.tensors.fold == fold).flatten()
            pictures = picture(store.tensors.images["hands"][exams], settings.images["hands"], image_px=16)
            with torch.no_grad():
                said = run.network(f"scores/fold{fold}/score")([pictures])[:, 0].clamp(0, 1)
            rows = frame.loc[[(site, exam) for exam in store.exams["exam_id"].iloc[exams.numpy()]]]
            assert set(rows["fold"]) == {fold}
            np.testing.assert_allclose(rows["number_score"], 3 * said.numpy(), atol=1e-4)


@pytest.mark.soak
@pytest.mark.ci
def test_numbers_and_folds_are_measured(run: synofed.Run) -> None:
    metrics = run.metrics()
    score = metrics["numbers"]["score"]
    assert score["exams"] == 96
    assert score["pearson"]["value"] > 0.7  # brightness tells the grade
    assert score["rmse"]["value"] < 0.9
    frame = run.predictions()
    truth = frame["label_score"]
    assert score["mae"]["value"] == pytest.approx((frame["number_score"] - truth).abs().mean())
    assert score["pearson"]["value"] == pytest.approx(np.corrcoef(truth, frame["number_score"])[0, 1])
    by_fold = metrics["folds"]["severity"]["accuracy"]
    shares = [(p["decision_severity"] == p["label_severity"]).mean() for _, p in frame.groupby("fold")]
    assert by_fold["folds"] == pytest.approx(shares)
    assert by_fold["mean"] == pytest.approx(np.mean(shares))
    assert by_fold["sd"] == pytest.approx(np.std(shares, ddof=1))
    assert 0.5 < metrics["folds"]["severity"]["auc_weighted"]["mean"] <= 1


@pytest.mark.soak
@pytest.mark.ci
def test_the_last_round_is_kept_and_nothing_is_told_of_the_fold(run: synofed.Run) -> None:
    results = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))["networks"]
    assert {result["best_round"] for result in results.values()} == {6}
    assert pd.read_json(run.path / "rounds.jsonl", lines=True)["auc"].isna().all()


@pytest.mark.soak
@pytest.mark.ci
def test_the_report_shows_numbers_and_folds(run: synofed.Run) -> None:
    html = synofed.report(run).read_text(encoding="utf-8")
    assert "<h2>Numbers" in html
    assert "<h2>By fold" in html
    mean = run.metrics()["folds"]["severity"]["accuracy"]["mean"]
    assert f"{mean:.2f}" in html
