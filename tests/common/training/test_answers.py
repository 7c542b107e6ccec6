"""Losses and probabilities of binary, nominal, ordinal and regression targets, each against a plain computation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.exam import MISSING
from common.networks.spec import NetworkSpec, Target
from common.training import answers
from common.training.data import ExamTensors
from common.training.inputs import labels, wanted

ORDINAL = Target(measurement="severity", kind="ordinal", threshold=None, classes=4)
NUMBER = Target(measurement="svdh", kind="regression", threshold=None, classes=3, edges=(0.25, 0.5))
NOMINAL = Target(measurement="severity", kind="nominal", threshold=None, classes=4)


def test_an_ordinal_loss_is_the_mean_of_its_cuts() -> None:
    outputs = torch.tensor([[2.0, 0.5, -1.0], [-0.3, -1.0, -4.0]])
    grades = torch.tensor([2, 0])
    by_hand = []
    for row, grade in zip(outputs.tolist(), grades.tolist(), strict=True):
        for cut, logit in enumerate(row):
            above = 1 / (1 + math.exp(-logit))
            by_hand.append(-math.log(above if grade > cut else 1 - above))
    assert answers.loss(outputs, grades, ORDINAL).item() == pytest.approx(sum(by_hand) / 6, rel=1e-6)


def test_a_far_miss_costs_more_than_a_near_one() -> None:
    sure_of_0 = torch.tensor([[-4.0, -4.0, -4.0]])
    costs = [float(answers.loss(sure_of_0, torch.tensor([grade]), ORDINAL)) for grade in range(4)]
    assert costs == sorted(costs)
    assert costs[3] > 2.9 * costs[1]


@given(st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3))
def test_ordinal_probabilities_are_probabilities(logits: list[float]) -> None:
    found = answers.probabilities(torch.tensor([logits]), ORDINAL)
    assert found.shape == (1, 4)
    assert float(found.min()) >= 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    if logits == sorted(logits, reverse=True):
        above = [1 / (1 + math.exp(-logit)) for logit in logits]
        assert found[0, 1:].flip(0).cumsum(0).flip(0).tolist() == pytest.approx(above, abs=1e-6)


def test_a_regression_learns_the_share_of_the_range() -> None:
    outputs = torch.tensor([[0.4], [1.2]])
    assert answers.loss(outputs, torch.tensor([0.5, 1.0]), NUMBER).item() == pytest.approx(0.025, rel=1e-5)
    assert answers.probabilities(outputs, NUMBER).flatten().tolist() == pytest.approx([0.4, 1.0])
    assert answers.expected(torch.tensor([[0.4]]), NUMBER).tolist() == pytest.approx([0.4])


def test_a_regression_in_units_of_what_is_usual_means_the_same_shares() -> None:
    """An output of -1, 0, 2 stands for 0.05, 0.1, 0.2 of the range; a miss of one unit costs 1."""
    target = NUMBER.model_copy(update={"centre": 0.1, "spread": 0.05})
    outputs = torch.tensor([[-1.0], [0.0], [2.0], [-5.0]])
    shares = answers.probabilities(outputs, target).flatten()
    assert shares.tolist() == pytest.approx([0.05, 0.1, 0.2, 0.0])
    assert answers.loss(outputs[:3], shares[:3], target).item() == pytest.approx(0.0, abs=1e-10)
    assert answers.loss(outputs[:3], shares[:3] + 0.05, target).item() == pytest.approx(1.0, rel=1e-4)


def test_the_expected_grade_is_over_the_highest() -> None:
    said = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    assert answers.expected(said, NOMINAL).tolist() == pytest.approx([0.5])
    assert answers.expected(said, ORDINAL).tolist() == pytest.approx([0.5])


def test_strata_of_a_number_and_what_is_learnt_of_it() -> None:
    shares = torch.tensor([0.0, 0.25, 0.3, 0.5, 1.0, math.nan])
    data = _exams(numbers={"svdh": shares})
    spec = NetworkSpec(name="n", images=(), target=NUMBER)
    assert labels(data, spec).tolist() == [0, 1, 1, 2, 2, MISSING]  # an edge belongs to the higher stratum
    torch.testing.assert_close(wanted(data, spec), shares, equal_nan=True)
    assert data.graded.tolist() == [True] * 5 + [False]


def _exams(numbers: dict[str, Tensor]) -> ExamTensors:
    count = len(next(iter(numbers.values())))
    return ExamTensors(
        images={},
        grades={"severity": torch.full((count,), MISSING, dtype=torch.int8)},
        fold=torch.zeros(count, dtype=torch.int8),
        patient=torch.arange(count, dtype=torch.int32),
        numbers=numbers,
    )
