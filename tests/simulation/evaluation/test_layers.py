"""Andersen's tables: every layer by grade, and the binary vote of the classifiers."""

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from common.machine.network_files import TrainedNetwork
from common.methods import andersen, single_score
from common.methods.stages import NetworkResult, networks
from common.settings import parse
from simulation.evaluation.blocks import layers
from simulation.evaluation.metrics import scorer_of

SETTINGS = parse(
    """
name = "andersen"
method = "andersen"
validity = "eoss"
[images.doppler]
kind = "doppler"
[measurements.hypertrophy]
images = ["doppler"]
[measurements.vascularity]
images = ["doppler"]
[andersen]
backbone = "small"
binary_backbone = "small"
encoder = "trained"
[evaluate]
bootstrap = 100
"""
)
ACCURACIES = (0.5, None, 0.7)


def trained() -> list[TrainedNetwork]:
    known = networks(SETTINGS)
    return [
        TrainedNetwork(
            spec=known[name],
            result=NetworkResult(best_round=1, auc=0.9, threshold=0.5, accuracy=accuracy),
            weights=np.zeros(1, np.float32),
        )
        for name, accuracy in zip(andersen.candidates(SETTINGS), ACCURACIES, strict=True)
    ]


def predictions() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 4, size=80)
    columns: dict[str, object] = {
        "exam_id": [f"e{i}" for i in range(80)],
        "patient_id": [f"p{i // 4}" for i in range(80)],
        "site": "a",
        "device": "d",
        "trained_site": np.arange(80) < 72,
    }
    for name in ("hypertrophy", "vascularity"):
        columns |= {f"truth_{name}": truth, f"label_{name}": truth}
    for source, right in (("decision", 0.8), ("layer_0", 0.4), ("layer_1", 0.5), ("layer_2", 0.7)):
        columns[f"{source}_combined"] = np.where(rng.random(80) < right, truth, rng.integers(0, 4, size=80))
    for k in range(10):
        columns[f"vote_combined_{k}"] = np.where(rng.random(80) < 0.5, truth, rng.integers(0, 4, size=80))
    return pd.DataFrame(columns)


def test_each_layer_has_its_accuracy_by_grade_and_the_ten_vote_over_healthy_and_diseased() -> None:
    table = predictions()
    block = layers.block(scorer_of(table, SETTINGS), table, trained())["andersen"]
    assert isinstance(block, dict)
    assert single_score.score(SETTINGS) == (block["score"], 4)
    assert block["best"] == 2
    seen = table[table["trained_site"]]
    assert set(block["layers"]) == {"0", "1", "2"}
    for k, accuracy in enumerate(ACCURACIES):
        layer = block["layers"][str(k)]
        assert layer["validation_accuracy"] == accuracy
        right = seen[f"layer_{k}_combined"] == seen["truth_hypertrophy"]
        assert layer["accuracy"]["value"] == right.mean()
        assert layer["by_grade"] == [right[seen["truth_hypertrophy"] == grade].mean() for grade in range(4)]
    votes = (seen[[f"vote_combined_{k}" for k in range(10)]] > 1).sum(axis=1)
    vote, truth = votes > 5, seen["truth_hypertrophy"] > 1
    binary = block["binary_vote"]
    assert binary["classifiers"] == 10
    assert binary["even"] == (votes == 5).sum() > 0
    assert binary["accuracy"]["value"] == (vote == truth).mean()
    assert binary["sensitivity"]["value"] == vote[truth].mean()
    assert binary["specificity"]["value"] == (~vote)[~truth].mean()
    assert np.isclose(binary["kappa"]["value"], cohen_kappa_score(truth, vote))
    low, high = binary["kappa"]["ci95"]
    assert low < binary["kappa"]["value"] < high


def test_andersens_printed_matrix_gives_what_its_counts_give() -> None:
    """Table 5's binary accuracy of 86.9 % follows from the printed four-class matrix (domain.md, section 3)."""
    matrix = np.array([[39, 4, 1, 0], [5, 28, 11, 0], [0, 11, 29, 4], [0, 0, 8, 36]])
    binary = np.array(
        [[matrix[:2, :2].sum(), matrix[:2, 2:].sum()], [matrix[2:, :2].sum(), matrix[2:, 2:].sum()]]
    )
    assert round(float(layers.BINARY["accuracy"](binary)), 3) == 0.869
    assert round(float(layers.BINARY["kappa"](binary)), 2) == 0.74, "0.78 is printed"
    assert round(float(layers.BINARY["sensitivity"](binary)), 3) == 0.875
    assert round(float(layers.BINARY["specificity"](binary)), 3) == 0.864
