"""Heads whose encoder's norms move beside them: one clipped vector of both, whatever the data and the weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from common.errors import ConfigurationError
from common.exam import MISSING
from common.privacy.mechanism.heads import Heads, HeadShape, PatientRows
from common.privacy.mechanism.patient_step import StepSettings, clipped_each, clipped_sum, private_gradient
from tests.private_heads import PATIENTS, cohort, entropy, start

MOVES = 7
C = 0.5


def moved(seed: int = 0, **changes: object) -> list[Heads]:
    """Two linear heads with norms, and one with a hidden layer and without."""
    return cohort(seed, moves=MOVES, **changes)  # type: ignore[arg-type]


def weights_of(heads: list[Heads], *, scale: float = 1.0, seed: int = 1) -> Tensor:
    """Start weights, with norms that have moved."""
    drawn = torch.randn(sum(some.size for some in heads), generator=torch.Generator().manual_seed(seed))
    return start(heads) + scale * 0.3 * drawn


def loss_of(part: Tensor, shape: HeadShape, rows: Tensor, grades: Tensor, class_weights: Tensor) -> Tensor:
    """A patient's by the definition: the mean over graded rows."""
    graded = grades != MISSING
    if not graded.any():
        return 0 * part.sum()
    inputs = rows[graded].double()
    if shape.moves:
        part, moves = part[: -shape.moves], part[-shape.moves :]
        numbers, slopes = inputs.split([shape.features, shape.features * shape.moves], dim=1)
        inputs = F.normalize(numbers + slopes.unflatten(1, (shape.features, shape.moves)) @ moves, dim=1)
    for number, (read, told) in enumerate(shape.layers):
        weight, bias, part = (
            part[: read * told],
            part[read * told : (read + 1) * told],
            part[(read + 1) * told :],
        )
        inputs = F.linear(inputs.relu() if number else inputs, weight.view(told, read), bias)
    truth = grades[graded]
    losses: Tensor = F.cross_entropy(inputs, truth, reduction="none") * class_weights[truth]
    return losses.mean()


def by_autograd(weights: Tensor, heads: list[Heads]) -> Tensor:
    """Each patient's gradient, patient by patient."""
    found = []
    for patient in range(heads[0].rows.patients):
        leaf = weights.double().requires_grad_()
        parts = leaf.split([some.shape.size for some in heads for _ in some.class_weights])
        each = [(some, number) for some in heads for number in range(len(some.class_weights))]
        losses = [
            loss_of(
                part,
                some.shape,
                some.rows.features[number, patient],
                some.rows.grades[number, patient],
                some.class_weights[number],
            )
            for part, (some, number) in zip(parts, each, strict=True)
        ]
        found.append(torch.autograd.grad(torch.stack(losses).sum(), leaf)[0])
    return torch.stack(found)


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.5, 5.0]), st.sampled_from([0.3, 1.0, 10.0]))
@settings(max_examples=6, deadline=None)
def test_all_patients_at_once_are_each_by_autograd(seed: int, max_norm: float, scale: float) -> None:
    heads = moved(seed, scale=scale)
    weights = weights_of(heads)
    theirs = by_autograd(weights, heads)
    clipped = theirs * (max_norm / theirs.norm(dim=1, keepdim=True)).clamp(max=1)
    ours = clipped_sum(weights, heads, max_norm=max_norm)
    torch.testing.assert_close(ours.norms, theirs.norm(dim=1), rtol=1e-5, atol=1e-5)
    assert float((ours.total - clipped.sum(0)).norm() / clipped.sum(0).norm()) < 1e-5
    each = list(clipped_each(weights, heads, max_norm=max_norm))
    torch.testing.assert_close(torch.stack(each).sum(0), ours.total)


@given(
    st.integers(0, 1000),
    st.sampled_from([1e-18, 1.0, 1e6, 1e18, 1e30]),
    st.sampled_from([0.0, 1.0, 1e8, 1e30]),
)
@settings(max_examples=40, deadline=None)
def test_no_patient_is_longer_than_the_clipping_norm(seed: int, scale: float, far: float) -> None:
    """Of heads and norms together; what overflows counts as zero."""
    heads = moved(seed, patients=6, scale=scale)
    weights = weights_of(heads, scale=far)
    for one in clipped_each(weights, heads, max_norm=C):
        assert float(one.norm()) <= C * (1 + 1e-9)


def test_a_patient_more_changes_the_sum_by_the_clipping_norm_at_most() -> None:
    for left_out in range(4):
        heads, without = moved(scale=10), moved(scale=10, without=left_out)
        weights = weights_of(heads)
        change = (
            clipped_sum(weights, heads, max_norm=C).total - clipped_sum(weights, without, max_norm=C).total
        )
        assert 0.99 * C < float(change.norm()) <= C * (1 + 1e-9)


def test_a_norm_that_is_clipped_beside_its_head_would_be_seen() -> None:
    """The fault that the test above must find: two vectors of the clipping norm each are longer than one."""
    heads = moved(scale=10, hidden=(None,))
    size, longest = heads[0].shape.size, 0.0
    for gradient in clipped_each(weights_of(heads), heads, max_norm=1e9):
        parts = gradient.view(2, size).split([size - MOVES, MOVES], dim=1)
        clipped = torch.stack([part.norm().clamp(max=C) for part in parts])
        longest = max(longest, float(clipped.norm()))
    assert longest == pytest.approx(2**0.5 * C)


def test_clipping_joins_heads_and_norms() -> None:
    heads = moved()
    weights = weights_of(heads)
    size = heads[0].shape.size
    for one in clipped_each(weights, heads, max_norm=1e-3):
        parts = one[:size].split([size - MOVES, MOVES])
        assert all(float(part.norm()) > 0 for part in parts)
        assert float(one.norm()) == pytest.approx(1e-3)


def test_a_patient_whose_derivatives_are_not_finite_counts_as_zero() -> None:
    spoilt, without = moved(spoilt=5), moved(without=5)
    weights = weights_of(spoilt)
    ours, theirs = (clipped_sum(weights, heads, max_norm=C) for heads in (spoilt, without))
    torch.testing.assert_close(ours.total, theirs.total)
    assert ours.norms.isnan().nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_weights_that_break_everything_give_noise(value: float) -> None:
    heads = moved()
    settings = StepSettings(max_grad_norm=C, noise_multiplier=1.0, sample_rate=1.0, patients=PATIENTS)
    step = private_gradient(weights_of(heads) * value, heads, settings, entropy=entropy("broken"))
    assert step.gradient.isfinite().all()
    assert step.largest_norm <= C


def test_where_nothing_has_moved_the_heads_gradient_is_that_of_heads_alone() -> None:
    heads = moved(hidden=(None,))
    plain = [
        Heads(
            shape=HeadShape(features=some.shape.features),
            rows=_read(some),
            class_weights=some.class_weights,
        )
        for some in heads
    ]
    weights = start(heads)
    ours = clipped_sum(weights, heads, max_norm=1e9).total.view(2, -1)[:, :-MOVES]
    alone = clipped_sum(weights.view(2, -1)[:, :-MOVES].flatten(), plain, max_norm=1e9).total.view(2, -1)
    torch.testing.assert_close(ours, alone)


def _read(some: Heads) -> PatientRows:
    """The features of heads alone: the numbers before the derivatives, scaled to unit length."""
    read = F.normalize(some.rows.features[..., : some.shape.features], dim=-1)
    return replace(some.rows, features=read, gram=read.double() @ read.double().mT)


def test_weights_of_another_length_are_refused() -> None:
    heads = moved()
    with pytest.raises(ConfigurationError, match="weights"):
        clipped_sum(weights_of(heads)[:-1], heads, max_norm=C)
