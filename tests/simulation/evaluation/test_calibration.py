import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from common.ensemble.trained import TrainedNetwork
from common.evaluation import calibration as measures
from common.evaluation.histograms import ScoreHistograms
from common.methods.stages import NetworkResult
from common.networks.spec import NetworkSpec, Target
from server.report.content import Json
from simulation.evaluation.blocks import calibration
from simulation.evaluation.blocks.calibration import Validation
from simulation.evaluation.metrics import metrics
from tests.simulation.evaluation.test_metrics import LIVER, RATING, frame, others

TOLD = ScoreHistograms.from_scores(np.linspace(0, 1, 50), np.arange(50) % 3 == 0)


@pytest.fixture(scope="module")
def result() -> Json:
    told = {("hypertrophy", 1): Validation(networks=4, histograms=TOLD)}
    return metrics(frame(models=2), settings=RATING, baselines=others(), validation=told, generator_seed=7)[
        "calibration"
    ]  # type: ignore[return-value]


def probability(table: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a task's two networks, and whether the truth is above its cut, where the sites trained."""
    seen = table[table["trained_site"]]
    name, cut = task.split("/gt")
    columns = [f"p:rating/fold0/{task}/{replica}" for replica in "ab"]
    return seen[columns].to_numpy().mean(axis=1), (seen[f"truth_{name}"] > int(cut)).to_numpy()


@pytest.mark.parametrize("task", ["hypertrophy/gt0", "vascularity/gt2"])
@pytest.mark.parametrize("system", ["federated", "centralised"])
def test_held_out_figures_are_those_of_the_networks_mean_probability(
    result: Json, task: str, system: str
) -> None:
    name, cut = task.split("/")
    found = result["tasks"][name][cut][system]
    scores, labels = probability(others()[system], task)
    assert found["exams"] == len(scores) == 120
    assert found["networks"] == 2
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(labels, scores))
    groups = measures.reliability(scores, labels)
    assert [g["exams"] for g in found["reliability"]] == [g.exams for g in groups]
    assert [g["share"] for g in found["reliability"]] == pytest.approx([g.share for g in groups], abs=1e-5)
    ece = sum(g.exams * abs(g.share - g.score) for g in groups) / len(scores)
    assert found["ece"]["value"] == pytest.approx(ece)
    assert 0 < found["ece_by_chance"] < 0.2
    for measure in ("auc", "brier"):
        assert found[measure]["ci95"][0] < found[measure]["value"] < found[measure]["ci95"][1]
    assert found["roc"][0][0] == found["roc"][1][0] == 0
    assert found["roc"][0][-1] == found["roc"][1][-1] == 1


def test_systems_have_as_many_models_and_a_run_without_baselines_stands_alone(result: Json) -> None:
    assert result["models"] == 1, "the run has two; what pooled data gave has one"
    alone: Json = metrics(frame(models=2), settings=RATING)["calibration"]  # type: ignore[assignment]
    assert alone["models"] == 2
    assert list(alone["tasks"]["hypertrophy"]["gt0"]) == ["federated"]
    scores, labels = probability(frame(), "hypertrophy/gt0")
    assert alone["tasks"]["hypertrophy"]["gt0"]["federated"]["auc"]["value"] == pytest.approx(
        roc_auc_score(labels, scores)
    )


def test_what_the_sites_told_stands_beside_it_without_an_interval(result: Json) -> None:
    found = result["tasks"]["hypertrophy"]["gt1"]["validation"]
    assert found["networks"] == 4
    assert found["exams"] == 50
    assert found["auc"] == {"value": pytest.approx(TOLD.auc())}
    assert sum(group["exams"] for group in found["reliability"]) == 50
    assert "validation" not in result["tasks"]["hypertrophy"]["gt0"]
    assert list(result["tasks"]) == ["hypertrophy", "vascularity"], "no network answers the combined score"


def test_each_site_has_its_own_temperature_which_moves_its_binary_networks_alone() -> None:
    table = frame().assign(**{"p:rating/fold0/hypertrophy:1": 0.25})
    found = calibration.tempered(table, {"site-a": {"hypertrophy": 2.0, "vascularity": 1.0}, "site-b": {}})
    here, name = table["site"] == "site-a", "p:rating/fold0/hypertrophy/gt1/a"
    p = table.loc[here, name].to_numpy().clip(1e-7, 1 - 1e-7)
    wanted = 1 / (1 + np.sqrt((1 - p) / p))
    np.testing.assert_allclose(found.loc[here, name], wanted, atol=1e-6)
    pd.testing.assert_frame_equal(found[~here], table[~here])
    pd.testing.assert_series_equal(
        found["p:rating/fold0/hypertrophy:1"], table["p:rating/fold0/hypertrophy:1"]
    )
    pd.testing.assert_series_equal(
        found["p:rating/fold0/vascularity/gt0/a"], table["p:rating/fold0/vascularity/gt0/a"]
    )


@pytest.mark.soak
def test_calibration_is_shown_before_and_after_a_sites_temperature() -> None:
    systems = {**others(), "personal": frame(seed=5)}
    chosen = {"site-a": {"hypertrophy": 0.5}, "site-b": {"hypertrophy": 0.5}}
    sets: Json = metrics(frame(), settings=RATING, baselines=systems, temperatures=chosen)["calibration"]  # type: ignore[assignment]
    found = sets["tasks"]["hypertrophy"]["gt0"]
    scores, labels = probability(calibration.tempered(systems["personal"], chosen), "hypertrophy/gt0")
    assert found["personal_tempered"]["brier"]["value"] == pytest.approx(brier_score_loss(labels, scores))
    assert found["personal"]["brier"]["value"] != found["personal_tempered"]["brier"]["value"]
    unmoved: Json = metrics(
        frame(), settings=RATING, baselines=systems, temperatures={"site-a": {"hypertrophy": 1.0}}
    )["calibration"]  # type: ignore[assignment]
    assert "personal_tempered" not in unmoved["tasks"]["hypertrophy"]["gt0"]


def test_patients_are_drawn_whole() -> None:
    """With the same exam eight times a patient, the interval is that of as many patients, not of all exams."""
    one = frame(exams=1, patients=40)
    copied = pd.concat([one] * 8, ignore_index=True)

    def width(table: pd.DataFrame) -> float:
        found: Json = metrics(table, settings=RATING)["calibration"]  # type: ignore[assignment]
        low, high = found["tasks"]["hypertrophy"]["gt1"]["federated"]["brier"]["ci95"]
        return float(high - low)

    assert width(copied) == pytest.approx(width(one))


def test_histograms_of_a_task_are_those_of_its_binary_networks_together() -> None:
    def network(name: str, kind: str, *, scoring: bool = True) -> TrainedNetwork:
        threshold = 1 if kind == "binary" else None
        target = Target.model_validate({"measurement": "steatosis", "kind": kind, "threshold": threshold})
        return TrainedNetwork(
            spec=NetworkSpec(name=name, images=("gs",), target=target, scoring=scoring),
            result=NetworkResult(best_round=1, auc=0.5, threshold=0.5),
            weights=np.zeros(1, dtype=np.float32),
        )

    several = ScoreHistograms.from_scores(np.linspace(0, 1, 9), np.arange(9) % 3, classes=3)
    networks = [
        network("a", "binary"),
        network("b", "binary"),
        network("pretrained", "binary", scoring=False),
        network("taken from elsewhere", "binary"),
        network("all grades", "nominal"),
    ]
    kept = {"a": TOLD, "b": TOLD, "pretrained": TOLD, "all grades": several}
    (found,) = calibration.told(networks, kept).items()
    assert found[0] == ("steatosis", 1)
    assert found[1].networks == 2
    assert found[1].histograms.exams == tuple(2 * count for count in TOLD.exams)


def test_without_networks_of_a_task_there_is_nothing_to_show() -> None:
    table = frame()[["exam_id", "patient_id", "site", "device", "trained_site"]].assign(
        label_steatosis=np.arange(180) % 3, decision_steatosis=0
    )
    assert metrics(table, settings=LIVER)["calibration"] == {"models": None, "tasks": {}}
