"""Stacked regression from sums: equal to pooled least squares, additive, and the mean where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ensemble.stacked_regression import NormalSums, solve
from common.errors import DataError, UpdateError


def drawn(seed: int, exams: int = 120, networks: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 0.6, exams)
    noise = rng.normal(0, (0.02, 0.1, 0.3)[:networks], (exams, networks))
    return 0.5 * truth[:, None] + 0.1 + noise, truth


@given(st.integers(0, 10_000), st.lists(st.integers(1, 119), max_size=4, unique=True))
def test_sums_of_sites_give_the_weights_of_pooled_least_squares(seed: int, cuts: list[int]) -> None:
    answers, truth = drawn(seed)
    sites = zip(np.split(answers, sorted(cuts)), np.split(truth, sorted(cuts)), strict=True)
    sums = sum((NormalSums.of(a, t) for a, t in sites), start=NormalSums.none(3))
    design = np.column_stack([answers, np.ones(len(answers))])
    expected = np.linalg.lstsq(design, truth, rcond=None)[0]
    stack = solve(sums, ridge=0.0)
    assert np.allclose([*stack.weights, stack.intercept], expected, atol=1e-6)
    assert np.allclose(stack(answers), np.clip(design @ expected, 0, 1), atol=1e-6)


def test_what_is_left_out_is_as_if_it_was_never_there() -> None:
    answers, truth = drawn(1)
    whole, part = NormalSums.of(answers, truth), NormalSums.of(answers[:40], truth[:40])
    left = solve(whole - part, ridge=0.0)
    alone = solve(NormalSums.of(answers[40:], truth[40:]), ridge=0.0)
    assert np.allclose(left.weights, alone.weights)
    assert (whole - part).exams == 80


def test_the_better_network_weighs_more_and_the_stack_beats_the_mean() -> None:
    answers, truth = drawn(2, exams=400)
    stack = solve(NormalSums.of(answers[:300], truth[:300]), ridge=1e-4)
    assert stack.weights[0] == max(stack.weights)
    rest = answers[300:], truth[300:]
    errors = [np.sqrt(np.mean((x - rest[1]) ** 2)) for x in (stack(rest[0]), rest[0].mean(axis=1))]
    assert errors[0] < 0.5 * errors[1]


def test_a_strong_ridge_gives_the_plain_mean_less_its_bias() -> None:
    answers, truth = drawn(3)
    stack = solve(NormalSums.of(answers, truth), ridge=1e6)
    assert np.allclose(stack.weights, 1 / 3, atol=1e-6)
    assert stack.intercept == pytest.approx(float((truth - answers.mean(axis=1)).mean()), abs=1e-6)


def test_of_no_exams_it_is_the_plain_mean() -> None:
    stack = solve(NormalSums.none(2), ridge=0.0)
    assert stack.weights.tolist() == [0.5, 0.5]
    assert stack.intercept == 0


def test_networks_that_say_the_same_are_no_trouble() -> None:
    answers, truth = drawn(4, networks=1)
    stack = solve(NormalSums.of(np.repeat(answers, 2, axis=1), truth), ridge=0.0)
    assert stack.weights[0] == pytest.approx(stack.weights[1])


def test_values_that_are_not_finite_are_refused() -> None:
    answers, truth = drawn(5)
    answers[3, 1] = np.nan
    with pytest.raises(DataError, match="Expected finite"):
        NormalSums.of(answers, truth)


def test_what_travels_is_read_again_bit_for_bit() -> None:
    sums = NormalSums.of(*drawn(6))
    again = NormalSums.read(sums.matrix, networks=3)
    assert (again.exams, again.gram.tolist(), again.moment.tolist()) == (
        sums.exams, sums.gram.tolist(), sums.moment.tolist()
    )  # fmt: skip


SHARES = np.random.default_rng(7).uniform(0, 1, (9, 3)), np.random.default_rng(8).uniform(0, 1, 9)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((0, 0), np.nan),
        ((0, 4), np.inf),
        ((0, 1), 0.5),
        ((2, 4), -1e-3),
        ((1, 1), 9.1),
        ((3, 3), 8.5),
        ((3, 3), 0.0),
        ((3, 4), 10.0),
    ],
    ids=[
        "NaN",
        "infinity",
        "not symmetric",
        "below 0",
        "above n",
        "no whole number",
        "no exams",
        "truth above n",
    ],
)
def test_what_can_be_no_sums_is_refused(place: tuple[int, int], value: float) -> None:
    matrix = NormalSums.of(*SHARES).matrix
    NormalSums.read(matrix, networks=3)
    matrix[place] = value
    with pytest.raises(UpdateError, match="Expected sums for stacking as of shares"):
        NormalSums.read(matrix, networks=3)


@pytest.mark.parametrize("shape", [(4, 4), (5, 4), (3, 4), (0, 0)])
def test_sums_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(UpdateError, match=r"of shape \(4, 5\), got"):
        NormalSums.read(np.ones(shape), networks=3)
