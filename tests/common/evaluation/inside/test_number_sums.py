"""Sums of numbers say what the exams themselves would, add up over sites, and their intervals are wide enough."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.evaluation.inside import number_sums
from common.evaluation.inside.number_sums import NumberSums


def drawn(
    rng: np.random.Generator, *, patients: int, exams: int = 2, error: float = 10.0
) -> tuple[np.ndarray, np.ndarray]:
    """Readers' and ensemble's totals of some patients whose exams are alike."""
    own = np.repeat(rng.uniform(0, 200, patients), exams)
    off = np.repeat(rng.normal(0, error, patients), exams)
    return own, own + off + rng.normal(5, error / 3, len(own))


def told(reference: np.ndarray, answer: np.ndarray, *, patients: int) -> NumberSums:
    return number_sums.sums(reference, answer, number="svdh", device="A", patients=patients)


@given(seed=st.integers(0, 2**32 - 1), sites=st.integers(1, 4))
def test_sites_sums_are_what_all_exams_together_give(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [drawn(rng, patients=int(rng.integers(5, 20))) for _ in range(sites)]
    y, x = map(np.concatenate, zip(*parts, strict=True))
    found = number_sums.estimates([told(*part, patients=len(part[0]) // 2) for part in parts])
    expected = {
        "pearson": np.corrcoef(x, y)[0, 1],
        "rmse": math.sqrt(((x - y) ** 2).mean()),
        "mae": np.abs(x - y).mean(),
        "bias": (x - y).mean(),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_intervals_hold_what_is_true_about_nineteen_times_in_twenty() -> None:
    """Of patients whose exams err alike, over 400 draws of 40 of them."""
    rng, patients = np.random.default_rng(2), 40
    y, x = drawn(rng, patients=100_000)
    true = {name: one.value for name, one in number_sums.estimates([told(y, x, patients=100_000)]).items()}
    held = dict.fromkeys(("pearson", "rmse", "bias"), 0)
    for _ in range(400):
        found = number_sums.estimates([told(*drawn(rng, patients=patients), patients=patients)])
        for name in held:
            held[name] += found[name].low <= true[name] <= found[name].high
    assert all(370 <= count <= 395 for count in held.values()), held


def test_what_cannot_be_said_is_not_said() -> None:
    same = number_sums.estimates([told(np.full(6, 3.0), np.arange(6.0), patients=6)])
    assert math.isnan(same["pearson"].value)
    few = number_sums.estimates([told(np.array([1.0, 2, 4]), np.array([1.0, 3, 3]), patients=3)])
    assert not math.isnan(few["pearson"].value)
    assert math.isnan(few["pearson"].low)


@pytest.mark.parametrize(
    "changes",
    [
        {"reference_squared": 1.0},
        {"product": 1e9},
        {"patients": 99},
        {"absolute_error": -5.0},
        {"answer": 1e9},
    ],
)
def test_sums_of_no_exams_are_refused(changes: dict[str, float]) -> None:
    whole = told(*drawn(np.random.default_rng(0), patients=6), patients=6).model_dump()
    with pytest.raises(ValidationError, match="expected sums of"):
        NumberSums.model_validate({**whole, **changes})
