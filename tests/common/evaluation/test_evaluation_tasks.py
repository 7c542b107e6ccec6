import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from common.errors import DataError
from common.evaluation.tasks import network_rates, over_networks, task


def networks(seed: int = 0, exams: int = 60, count: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random(exams) < 0.4
    probabilities = np.clip(generator.normal(0.35 + 0.3 * labels[:, None], 0.25, (exams, count)), 0, 1)
    return probabilities.round(2), labels, generator.uniform(0.3, 0.7, count)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_each_network_is_what_scikit_learn_says_of_it_alone(seed: int, count: int) -> None:
    probabilities, labels, thresholds = networks(seed, count=count)
    got = network_rates(probabilities, labels, thresholds)
    assert all(values.shape == (count,) for values in got.values())
    for i in range(count):
        answers = probabilities[:, i] >= thresholds[i]
        never = {"zero_division": np.nan}
        expected = {
            "auc": roc_auc_score(labels, probabilities[:, i]),
            "ppv": precision_score(labels, answers, **never),
            "npv": precision_score(~labels, ~answers, **never),
            "sensitivity": recall_score(labels, answers),
            "specificity": recall_score(~labels, ~answers),
        }
        assert {name: values[i] for name, values in got.items()} == pytest.approx(expected, nan_ok=True)


def test_a_probability_at_the_threshold_answers_1() -> None:
    got = network_rates([[0.5], [0.49]], [1, 0], [0.5])
    assert {name: values.tolist() for name, values in got.items()} == {name: [1.0] for name in got}


def test_the_interval_is_the_papers() -> None:
    values = [0.80, 0.85, 0.90, 0.85]
    got = over_networks(values)
    # Sample standard deviation: sqrt((0.0025 + 0 + 0.0025 + 0) / 3).
    margin = 1.96 * np.sqrt(0.005 / 3) / np.sqrt(4)
    assert (got.value, got.low, got.high) == pytest.approx((0.85, 0.85 - margin, 0.85 + margin))
    assert got.networks == 4


def test_the_interval_knows_nothing_of_the_number_of_exams() -> None:
    probabilities, labels, thresholds = networks()
    once = task(probabilities, labels, thresholds)
    tenfold = task(np.tile(probabilities, (10, 1)), np.tile(labels, 10), thresholds)
    for name, figure in once.items():
        assert (tenfold[name].low, tenfold[name].high) == pytest.approx((figure.low, figure.high))


def test_one_network_has_a_value_and_no_interval() -> None:
    got = over_networks([0.7])
    assert (got.value, got.networks) == (0.7, 1)
    assert np.isnan([got.low, got.high]).all()


def test_a_network_without_the_figure_is_left_out_and_not_counted() -> None:
    probabilities = np.array([[0.9, 0.1, 0.9], [0.1, 0.1, 0.1], [0.8, 0.1, 0.2]])
    ppv = task(probabilities, [1, 0, 1], [0.5, 0.5, 0.5])["ppv"]
    assert (ppv.value, ppv.networks) == (1.0, 2)
    assert over_networks([np.nan, 0.5, np.nan]).networks == 1


@pytest.mark.parametrize("exams", [0, 5])
def test_one_class_only(exams: int) -> None:
    got = network_rates(np.full((exams, 2), 0.9), np.ones(exams, dtype=bool), [0.5, 0.5])
    assert np.isnan([got["auc"], got["specificity"], got["npv"]]).all()
    assert np.isnan(got["sensitivity"]).all() == (exams == 0)
    assert over_networks(got["auc"]).networks == 0


@pytest.mark.parametrize(
    ("probabilities", "labels", "thresholds", "message"),
    [
        ([0.1, 0.2], [0, 1], [0.5], r"shapes \(2,\)"),
        ([[0.1], [0.2]], [0, 1, 1], [0.5], r"\(3,\)"),
        ([[0.1], [0.2]], [0, 1], [0.5, 0.5], "one threshold per network"),
        ([[0.1], [np.nan]], [0, 1], [0.5], "finite"),
        ([[0.1], [0.2]], [0, -1], [0.5], "labels 0 or 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: ArrayLike, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        task(probabilities, labels, thresholds)
