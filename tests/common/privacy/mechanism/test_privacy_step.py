import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import ConfigurationError
from common.privacy.mechanism import patient_step
from common.privacy.mechanism.gaussian_release import clipping_norm
from common.privacy.mechanism.heads import (
    NO_GRADE,
    Heads,
    HeadShape,
    PatientRows,
    layers,
    logits,
    patient_rows,
)
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.patient_step import (
    NoisedGradient,
    StepSettings,
    clipped_sum,
    private_gradient,
    sample,
)
from tests.private_heads import FEATURES, IMAGES, PATIENTS, VIEWS, cohort, entropy, start

STEP = StepSettings(max_grad_norm=0.5, noise_multiplier=1.0, sample_rate=1.0, patients=PATIENTS)


def single(weights: Tensor, heads: list[Heads]) -> Iterator[tuple[Tensor, HeadShape, Tensor, Tensor, Tensor]]:
    """Each head alone: its part of the weights, its shape, features, grades and class weights."""
    for part, some in zip(weights.split([some.size for some in heads]), heads, strict=True):
        for number, own in enumerate(part.split(some.shape.size)):
            yield (
                own,
                some.shape,
                some.rows.features[number],
                some.rows.grades[number],
                some.class_weights[number],
            )


def autograd_gradients(weights: Tensor, heads: list[Heads]) -> Tensor:
    """Each patient's gradient by the definition: of the mean loss over that patient's graded rows, in float64."""
    gradients = []
    for patient in range(heads[0].rows.patients):
        leaf = weights.double().requires_grad_()
        loss = 0 * leaf.sum()
        for part, shape, features, grades, class_weights in single(leaf, heads):
            graded = grades[patient] != NO_GRADE
            if graded.any():
                hidden = features[patient][graded].double()
                views = part.split([n for i, o in shape.layers for n in (i * o, o)])
                for number, (inputs, outputs) in enumerate(shape.layers):
                    hidden = hidden.relu() if number else hidden
                    hidden = F.linear(hidden, views[2 * number].view(outputs, inputs), views[2 * number + 1])
                truth = grades[patient][graded]
                losses = F.cross_entropy(hidden, truth, reduction="none") * class_weights[truth]
                loss = loss + losses.mean()
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    return torch.stack(gradients)


def clipped(gradients: Tensor, max_norm: float) -> Tensor:
    scale: Tensor = (max_norm / gradients.norm(dim=1, keepdim=True)).clamp(max=1)
    return (gradients * scale).nan_to_num().sum(0)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.5, 5.0]), st.sampled_from([0.3, 1.0, 10.0]))
@settings(max_examples=4, deadline=None)
def test_the_sum_is_that_of_the_definition(seed: int, max_norm: float, scale: float) -> None:
    heads = cohort(seed, scale=scale)
    weights = start(heads)
    gradients = autograd_gradients(weights, heads)
    ours = clipped_sum(weights, heads, max_norm=max_norm)
    assert relative(ours.total, clipped(gradients, max_norm)) < 3e-6
    torch.testing.assert_close(ours.norms, gradients.norm(dim=1), rtol=3e-6, atol=3e-6)


def opacus_gradients(weights: Tensor, heads: list[Heads]) -> Tensor:
    """The same from Opacus: one gradient per row by its hooks, averaged over each patient's graded rows."""
    collected = []
    for part, shape, features, grades, class_weights in single(weights, heads):
        linear = [nn.Linear(i, o) for i, o in shape.layers]
        with torch.no_grad():
            for one, (weight, bias) in zip(linear, layers(part, shape, heads=1), strict=True):
                one.weight.copy_(weight[0])
                one.bias.copy_(bias[0])
        modules = [m for one in linear for m in (one, nn.ReLU())][:-1]
        hooked = GradSampleModule(nn.Sequential(*modules), loss_reduction="sum")
        graded = grades != NO_GRADE
        truth = grades[graded]
        losses = F.cross_entropy(hooked(features[graded].requires_grad_()), truth, reduction="none")
        (losses * class_weights[truth]).sum().backward()
        rows = torch.cat([p.grad_sample.flatten(1) for p in hooked.parameters()], dim=1)
        total = torch.zeros(len(graded), rows.shape[1]).index_add_(0, graded.nonzero()[:, 0], rows)
        collected.append(total / graded.sum(1, keepdim=True).clamp(min=1))
    return torch.cat(collected, dim=1)


def test_opacus_gives_the_same_sum() -> None:
    for seed in range(3):
        heads = cohort(seed)
        weights = start(heads)
        theirs = clipped(opacus_gradients(weights, heads), 0.5)
        assert relative(clipped_sum(weights, heads, max_norm=0.5).total.float(), theirs) < 3e-6


def test_clipping_is_joint_and_the_mean_is_over_images_and_views() -> None:
    heads = cohort()
    weights = start(heads)
    ours = clipped_sum(weights, heads, max_norm=1e-3)
    assert (
        ours.norms > 1e-3
    ).all()  # so every patient is clipped, and counts for 1e-3 over both heads together
    sizes = [some.size for some in heads]
    each = zip(weights.split(sizes), heads, strict=True)
    alone = [clipped_sum(part, [some], max_norm=1e9).norms for part, some in each]
    torch.testing.assert_close(ours.norms, torch.stack(alone).square().sum(0).sqrt())
    doubled = [replace(h, rows=_rows(h, views=2)) for h in heads]
    torch.testing.assert_close(clipped_sum(weights, doubled, max_norm=1e-3).total, ours.total)


def _rows(head: Heads, *, views: int) -> PatientRows:
    """The same images, every view of them twice."""
    rows = head.rows
    return replace(
        rows,
        features=rows.features.repeat(1, 1, views, 1),
        grades=rows.grades.repeat(1, 1, views),
        gram=rows.gram.repeat(1, 1, views, views),
    )


def test_only_the_first_images_of_a_patient_are_read() -> None:
    features = torch.arange(5.0)[:, None, None].expand(1, 5, VIEWS, FEATURES).clone()
    rows = patient_rows(
        features, torch.tensor([[0, 1, 2, 3, -1]]), torch.tensor([1, 0, 1, 1, 1]), patients=3, images=2
    )
    assert rows.features[0, :, :, 0].tolist() == [[1, 1, 0, 0], [0, 0, 2, 2], [0, 0, 0, 0]]
    assert rows.grades[0].tolist() == [[1, 1, -1, -1], [0, 0, 2, 2], [-1, -1, -1, -1]]
    torch.testing.assert_close(rows.gram, rows.features.double() @ rows.features.double().mT)
    with pytest.raises(ConfigurationError, match="indices"):
        patient_rows(features, torch.zeros(1, 5).long(), torch.full((5,), 3), patients=3, images=2)


def noise_of(result: NoisedGradient, settings: StepSettings = STEP) -> np.ndarray:
    """A step's noise in units of what it should be."""
    unit = settings.noise_multiplier * settings.max_grad_norm / (settings.sample_rate * settings.patients)
    noise: np.ndarray = result.gradient.double().numpy() / unit
    return noise


WIDE = (800, 800)
"""Hidden layers that make 27,000 weights, so that the noise's scale can be told."""


def test_noise_is_right_with_nobody_and_two_thirds_of_it_is_not() -> None:
    for label, heads in (("empty", cohort(patients=1, without=0, hidden=WIDE)), ("all", cohort(hidden=WIDE))):
        weights = torch.full((sum(some.size for some in heads),), torch.nan)  # nobody counts
        noise = noise_of(private_gradient(weights, heads, STEP, entropy=entropy(label)))
        margin = 6 * math.sqrt(2 / noise.size)
        assert abs(np.mean(noise**2) - 1) < margin
        for wrong in (2 / 3, 3 / 2):
            assert abs(np.mean((wrong * noise) ** 2) - 1) > margin


def test_the_noise_does_not_depend_on_the_data() -> None:
    settings = replace(STEP, sample_rate=0.3)
    heads = cohort(hidden=WIDE)
    weights = start(heads)
    chosen = sample(heads, 0.3, stream=KeyStream(entropy("same"), "sampling"))
    total = clipped_sum(weights, chosen, max_norm=clipping_norm(0.5)).total.numpy()
    step = private_gradient(weights, heads, settings, entropy=entropy("same"))
    noise = noise_of(step, settings) - total / 0.5
    assert abs(np.mean(noise**2) - 1) < 6 * math.sqrt(2 / noise.size)
    assert (step.sampled, step.not_finite) == (chosen[0].rows.patients, 0)
    assert 0 < step.sampled < PATIENTS
    assert step.noise_std == pytest.approx(0.5 / (0.3 * PATIENTS))


def test_two_runs_differ() -> None:
    heads = cohort(hidden=WIDE)
    weights = start(heads)
    one, other = (private_gradient(weights, heads, STEP, entropy=entropy(run)).gradient for run in range(2))
    noise = [g - clipped_sum(weights, heads, max_norm=0.5).total.float() / PATIENTS for g in (one, other)]
    assert abs(F.cosine_similarity(noise[0], noise[1], dim=0)) < 0.05


def test_neighbouring_data_do_not_give_the_record_away() -> None:
    """All else equal, the difference of two gradients has nothing of the patient who was removed."""
    record = None
    for label in range(3):
        with_patient, without = cohort(hidden=WIDE, scale=10), cohort(hidden=WIDE, scale=10, without=3)
        weights = start(with_patient)
        record = (
            clipped_sum(weights, with_patient, max_norm=0.5).total
            - clipped_sum(weights, without, max_norm=0.5).total
        ).float()
        assert record.norm() == pytest.approx(0.5, rel=1e-3)
        difference = (
            private_gradient(weights, with_patient, STEP, entropy=entropy("with", label)).gradient
            - private_gradient(weights, without, STEP, entropy=entropy("without", label)).gradient
        )
        assert abs(F.cosine_similarity(difference, record, dim=0)) < 0.2


def test_a_patient_who_is_not_finite_counts_as_zero() -> None:
    spoilt, without = cohort(spoilt=5), cohort(without=5)
    weights = start(spoilt)
    ours, theirs = (clipped_sum(weights, heads, max_norm=0.5) for heads in (spoilt, without))
    torch.testing.assert_close(ours.total, theirs.total)
    assert ours.norms.isnan().nonzero().flatten().tolist() == [5]
    assert private_gradient(weights, spoilt, STEP, entropy=entropy("spoilt")).not_finite == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_weights_that_break_everything_give_noise(value: float) -> None:
    heads = cohort()
    step = private_gradient(start(heads) * value, heads, STEP, entropy=entropy("broken"))
    assert step.gradient.isfinite().all()
    assert step.largest_norm <= 0.5


def test_a_patient_without_a_grade_gives_nothing() -> None:
    heads = [
        replace(h, rows=replace(h.rows, grades=torch.full_like(h.rows.grades, NO_GRADE))) for h in cohort()
    ]
    summed = clipped_sum(start(heads), heads, max_norm=0.5)
    assert summed.total.count_nonzero() == 0
    assert summed.norms.tolist() == [0] * PATIENTS


def test_rows_that_cancel_do_not_slip_through() -> None:
    """Two huge images with the same features and opposite errors: what rounding leaves is clipped too."""
    features = torch.full((1, 2, 1, 4), 1e6)
    features[0, 1] += 1
    rows = patient_rows(features, torch.tensor([[0, 1]]), torch.tensor([0, 0]), patients=1, images=2)
    head = Heads(shape=HeadShape(features=4, classes=2), rows=rows, class_weights=torch.ones(1, 2))
    summed = clipped_sum(torch.zeros(10), [head], max_norm=0.5)
    assert float(summed.total.norm()) <= 0.5 * (1 + 1e-9)


def test_the_sum_does_not_depend_on_how_much_is_added_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = cohort(patients=200)
    weights = start(heads)
    together = clipped_sum(weights, heads, max_norm=0.5).total
    monkeypatch.setattr(patient_step, "NUMBERS_AT_ONCE", 7 * FEATURES)
    torch.testing.assert_close(clipped_sum(weights, heads, max_norm=0.5).total, together)


def test_sampling_takes_whole_patients_the_same_for_all_heads() -> None:
    heads = cohort(patients=200)
    chosen = sample(heads, 0.25, stream=KeyStream(entropy("whole"), "sampling"))
    assert len({some.rows.patients for some in chosen}) == 1
    assert abs(chosen[0].rows.patients - 50) < 30
    assert sample(heads, 1, stream=KeyStream(entropy("all"), "sampling")) == heads
    with pytest.raises(ConfigurationError, match="same patients"):
        sample([heads[0], cohort(patients=3)[1]], 0.25, stream=KeyStream(entropy("x"), "sampling"))
    with pytest.raises(ConfigurationError, match="same patients"):
        sample([], 0.25, stream=KeyStream(entropy("x"), "sampling"))


def test_heads_answer_and_refuse_other_weights() -> None:
    heads = cohort()
    weights = start(heads)
    with pytest.raises(ConfigurationError, match="weights"):
        clipped_sum(weights[:-1], heads, max_norm=0.5)
    with pytest.raises(ConfigurationError, match="weights of heads"):
        logits(weights, heads[0].shape, torch.zeros(2, 3, FEATURES))
    answers = logits(weights[: heads[0].size], heads[0].shape, torch.zeros(2, IMAGES, FEATURES))
    assert answers.shape == (2, IMAGES, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"max_grad_norm": 0.0},
        {"noise_multiplier": 0.0},
        {"sample_rate": 1.3},
        {"patients": 0},
        {"max_grad_norm": math.inf},
        {"max_grad_norm": math.nan},
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Expected"):
        replace(STEP, **change)


def test_a_step_is_booked_as_it_is() -> None:
    cost = replace(STEP, sample_rate=0.2, noise_multiplier=1.5).cost()
    assert (cost.sample_rate, cost.noise_multiplier, cost.count) == (0.2, 1.5, 1)
