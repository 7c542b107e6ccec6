import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score

from common.errors import DataError
from common.settings import MeasurementSettings, Settings, parse
from simulation.metrics import metrics

RATING = parse(
    """
    name = "test"
    validity = "eoss"
    [images.gs]
    kind = "grey"
    [images.doppler]
    kind = "doppler"
    [measurements.hypertrophy]
    images = ["gs", "doppler"]
    [measurements.vascularity]
    images = ["doppler"]
    [evaluate]
    bootstrap = 200
    """
)
LIVER = parse(
    """
    name = "liver"
    [images.gs]
    kind = "grey"
    [measurements.steatosis]
    grades = 3
    images = ["gs"]
    [evaluate]
    bootstrap = 100
    """
)
SITES = {"site-a": ("ge", True), "site-b": ("mindray", True), "site-c": ("samsung", False)}


def pairs(generator, exams):
    h = generator.integers(0, 4, size=exams)
    return h, np.where(h > 0, generator.integers(0, 4, size=exams), 0)


def noisy(generator, h, v, right):
    other = pairs(generator, len(h))
    keep = generator.random(len(h)) < right
    return np.where(keep, h, other[0]), np.where(keep, v, other[1])


def frame(*, right=0.8, seed=0, patients=12, exams=5):
    """A table of predictions; the exams and their truth do not depend on ``seed`` and ``right``."""
    base, generator = np.random.default_rng(99), np.random.default_rng(seed)
    parts = []
    for site, (device, trained) in SITES.items():
        n = patients * exams
        h, v = pairs(base, n)
        columns = {
            "exam_id": [f"e{i}" for i in range(n)],
            "patient_id": np.repeat([f"p{i}" for i in range(patients)], exams),
            "site": site,
            "device": device,
            "trained_site": trained,
            "contested": np.arange(n) % 10 == 0,
        }
        for prefix, chance in (
            ("truth", 1.0),
            ("label", 0.9),
            ("reader_r1", 0.7),
            ("reader_r2", 0.6),
            ("decision", right),
        ):
            columns[f"{prefix}_hypertrophy"], columns[f"{prefix}_vascularity"] = noisy(
                generator, h, v, chance
            )
        columns["majority_hypertrophy"] = np.where(np.arange(n) == 3, 0, columns["decision_hypertrophy"])
        columns["majority_vascularity"] = np.where(np.arange(n) == 3, 2, columns["decision_vascularity"])
        for name, grades in (("hypertrophy", h), ("vascularity", v)):
            for cut in range(3):
                for replica in "ab":
                    p = np.clip(generator.normal(0.35 + 0.3 * (grades > cut), 0.2), 0, 1)
                    columns[f"p:rating/fold0/{name}/gt{cut}/{replica}"] = p
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def result():
    baselines = {
        "centralised": frame(right=0.85, seed=1),
        "alone:site-a": frame(right=0.4, seed=2),
        "alone:site-b": frame(right=0.5, seed=3),
        "federated": frame(right=0.75, seed=4),
    }
    return metrics(frame(), settings=RATING, baselines=baselines, generator_seed=7)


def test_headline_is_the_held_out_exams_of_training_sites(result):
    seen = frame().query("trained_site")
    truth = seen[["truth_hypertrophy", "truth_vascularity"]].max(axis=1)
    answer = seen[["decision_hypertrophy", "decision_vascularity"]].max(axis=1)
    combined = result["combined"]
    assert result["reference"] == "truth"
    assert result["exams"] == combined["exams"] == 120
    assert result["patients"] == 24
    assert combined["accuracy"]["value"] == pytest.approx((truth == answer).mean())
    for weights in ("linear", "quadratic"):
        expected = cohen_kappa_score(truth, answer, weights=weights)
        assert combined[f"kappa_{weights}"]["value"] == pytest.approx(expected)
    assert combined["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(truth, answer))
    assert np.sum(combined["confusion"]) == 120
    low, high = combined["accuracy"]["ci95"]
    assert low < combined["accuracy"]["value"] < high


def test_sites_devices_and_pools(result):
    assert set(result["sites"]) == set(SITES)
    assert set(result["devices"]) == {"ge", "mindray", "samsung"}
    assert result["sites"]["site-a"]["exams"] == 60
    assert result["unseen"]["exams"] == 60
    assert result["unseen"]["trained"] is False
    assert result["seen"]["combined"] == result["combined"]
    assert result["unseen"]["combined"] == result["devices"]["samsung"]["combined"]


def test_patients_of_two_sites_with_one_name_are_two_patients(result):
    assert result["patients"] == sum(result["sites"][site]["patients"] for site in ("site-a", "site-b"))


def test_auc_is_the_mean_over_the_tasks_networks(result):
    seen = frame().query("trained_site")
    task = result["binary"]["vascularity"]["gt1"]
    expected = [
        roc_auc_score(seen["truth_vascularity"] > 1, seen[f"p:rating/fold0/vascularity/gt1/{r}"])
        for r in "ab"
    ]
    assert task["networks"] == 2
    assert task["auc"]["value"] == pytest.approx(np.mean(expected))
    assert task["auc"]["ci95"][0] < task["auc"]["value"] < task["auc"]["ci95"][1]
    assert set(task["decision"]) == {"sensitivity", "specificity", "youden"}


def test_invalid_pairs_and_contested(result):
    assert result["invalid_pairs"] == 0
    assert result["baselines"]["majority"]["invalid_pairs"] == 2
    assert result["contested"] == pytest.approx(0.1)


def test_baselines_and_their_means(result):
    baselines = result["baselines"]
    assert set(baselines) == {
        "centralised", "federated_same_models", "alone", "alone_mean", "majority", "readers"
    }  # fmt: skip
    each = [baselines["alone"][site]["combined"]["accuracy"]["value"] for site in ("site-a", "site-b")]
    assert baselines["alone_mean"]["combined"]["accuracy"]["value"] == pytest.approx(np.mean(each))
    assert baselines["alone"]["site-a"]["own"]["exams"] == 60
    assert set(baselines["readers"]) == {"r1", "r2", "mean"}
    assert "unseen" in baselines["centralised"]
    assert "unseen" in baselines["alone_mean"]


def test_differences_are_paired(result):
    difference = result["differences"]["federated_minus_alone_mean"]["combined"]["accuracy"]
    alone = result["baselines"]["alone_mean"]["combined"]["accuracy"]
    assert difference["value"] == pytest.approx(result["combined"]["accuracy"]["value"] - alone["value"])
    assert difference["ci95"][0] > 0
    assert result["differences"]["federated_minus_majority"]["combined"]["accuracy"]["ci95"][0] >= -0.1


def test_the_same_table_gives_the_same_json():
    one, two = (json.dumps(metrics(frame(), settings=RATING, generator_seed=3)) for _ in range(2))
    assert one == two


def test_without_truth_the_consensus_is_the_reference():
    table = frame().drop(columns=["truth_hypertrophy", "truth_vascularity"])
    got = metrics(table, settings=RATING)
    assert got["reference"] == "consensus"
    assert "against_consensus" not in got
    assert "readers" not in got["baselines"]
    full = metrics(frame(), settings=RATING)
    assert got["combined"] == full["against_consensus"]["combined"]


def test_one_measurement_of_three_grades_with_gaps():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, size=40)
    table = pd.DataFrame(
        {
            "exam_id": range(40),
            "patient_id": np.arange(40) // 4,
            "site": "one",
            "device": "x",
            "trained_site": True,
            "label_steatosis": np.where(np.arange(40) < 5, np.nan, truth),
            "decision_steatosis": truth,
        }
    )
    got = metrics(table, settings=LIVER)
    assert got["steatosis"]["exams"] == 35
    assert got["steatosis"]["accuracy"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    assert got["unseen"] is None
    assert got["binary"]["steatosis"]["gt1"]["auc"] is None
    assert "combined" not in got
    json.dumps(got, allow_nan=False)


def test_a_site_without_graded_exams_gives_null_not_nan():
    table = frame()
    table.loc[table["site"] == "site-b", ["truth_hypertrophy", "truth_vascularity"]] = -1
    got = metrics(table, settings=RATING)
    assert got["sites"]["site-b"]["combined"]["accuracy"] == {"value": None, "ci95": [None, None]}
    json.dumps(got, allow_nan=False)


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"\['label_vascularity'\] are missing"):
        metrics(frame().drop(columns="label_vascularity"), settings=RATING)
    with pytest.raises(DataError, match=r"decision_<score>"):
        metrics(frame().drop(columns=["decision_hypertrophy", "decision_vascularity"]), settings=RATING)


def test_a_method_with_one_score_of_its_own_is_measured_on_that_score():
    table = frame()
    combined = np.maximum(table["decision_hypertrophy"], table["decision_vascularity"])
    single = table.drop(columns=["decision_hypertrophy", "decision_vascularity"])
    result = metrics(single.assign(decision_combined=combined), settings=RATING)
    assert list(result["grades"]) == ["combined"]
    assert result["combined"] == metrics(table, settings=RATING)["combined"]


def test_a_baseline_on_other_exams_is_refused():
    with pytest.raises(DataError, match=r"baseline 'centralised'.* 1 of them are missing"):
        metrics(frame(), settings=RATING, baselines={"centralised": frame().iloc[1:]})


def test_measurements_of_any_name():
    settings = Settings(
        name="one", images=LIVER.images, measurements={"a": MeasurementSettings(grades=2, images=("gs",))}
    )
    table = pd.DataFrame(
        {
            "exam_id": [0, 1], "patient_id": [0, 1], "site": "s", "device": "d", "trained_site": True,
            "label_a": [0, 1], "decision_a": [0, 0],
        }
    )  # fmt: skip
    assert metrics(table, settings=settings)["a"]["confusion"] == [[1, 0], [1, 0]]
