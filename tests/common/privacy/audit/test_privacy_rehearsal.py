"""The rehearsal stays below a claim that holds, and exceeds it where a bug is planted in the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import ConfigurationError
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.audit import attacks
from common.privacy.audit.attacks import RehearsalParameters, Step
from common.privacy.audit.rehearsal import Rehearsal, at_claim, ceiling, guesses, rehearsals, rehearse
from common.privacy.mechanism.heads import Heads, PatientRows
from common.privacy.mechanism.patient_step import (
    NoisedGradient,
    StepSettings,
    clipped_sum,
    private_gradient,
)
from tests.private_heads import entropy

IMAGES, HEADS, FEATURES = 8, 6, 8
CLAIM = PrivateSteps(sample_rate=1.0, noise_multiplier=4.0, count=4)
"""Claims 2.0."""
CANARIES = 1000


def parameters(steps: PrivateSteps = CLAIM, *, images: int = 1, heads: int = 1) -> RehearsalParameters:
    return RehearsalParameters(
        steps=steps,
        max_grad_norm=0.5,
        patients=40,
        images=images,
        heads=heads,
        features=FEATURES,
        delta=1e-5,
    )


def rehearsed(
    given: RehearsalParameters, *, step: Step = private_gradient, canaries: int = CANARIES
) -> Rehearsal:
    return rehearse(given, canaries=canaries, entropy=entropy("rehearsal"), date="2026-01-01", step=step)


def test_a_true_step_stays_below_its_claim_and_the_rehearsal_says_what_that_means() -> None:
    done = rehearsed(parameters(heads=HEADS, images=2))
    assert 0.3 < done.white_box < done.claim
    assert 0 <= done.black_box < done.claim
    assert done.claim == pytest.approx(2.0, abs=0.05)
    assert (done.refuted, done.refutable) == (False, True)
    assert "not refuted, which is no proof" in str(done)
    assert done.ceiling == ceiling(parameters(), CANARIES)


@pytest.mark.soak
def test_sampled_steps_show_what_was_measured_before() -> None:
    """q 0.2, 100 steps, 1,000 Dirac canaries: 0.55-0.7 of a claim of 2.1 at sigma 4, 2.6-3.3 of 14.5 at sigma 1."""
    for sigma, low, high in ((4.0, 0.2, 0.9), (1.0, 2.4, 3.6)):
        steps = PrivateSteps(sample_rate=0.2, noise_multiplier=sigma, count=100)
        done = rehearsed(parameters(steps))
        assert low < done.white_box < high, sigma
        assert done.bound < done.claim


def without_noise(
    weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    return with_noise(1e-6, weights, heads, settings, entropy)


def ten_times_too_little(
    weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    return with_noise(0.1, weights, heads, settings, entropy)


def half(
    weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    return with_noise(0.5, weights, heads, settings, entropy)


def with_noise(
    factor: float, weights: Tensor, heads: Sequence[Heads], settings: StepSettings, fresh: bytes
) -> NoisedGradient:
    changed = replace(settings, noise_multiplier=factor * settings.noise_multiplier)
    return private_gradient(weights, heads, changed, entropy=fresh)


def clipped_by_image(
    weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    """Every image is a patient of its own."""
    changed = [replace(some, rows=_images_as_patients(some.rows)) for some in heads]
    return private_gradient(weights, changed, settings, entropy=entropy)


def _images_as_patients(rows: PatientRows) -> PatientRows:
    squares = rows.gram.diagonal(dim1=2, dim2=3).flatten(1)
    return PatientRows(
        features=rows.features.flatten(1, 2)[:, :, None],
        grades=rows.grades.flatten(1)[:, :, None],
        gram=squares[:, :, None, None],
    )


def uncounted_releases(
    weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    """13 releases for each one that is booked: 48 more in all."""
    draws = [
        private_gradient(weights, heads, settings, entropy=attacks.derived(entropy, str(number)))
        for number in range(13)
    ]
    return replace(draws[0], gradient=torch.stack([draw.gradient for draw in draws]).mean(0))


def test_without_noise_it_shows_all_that_so_many_canaries_can() -> None:
    done = rehearsed(parameters(), step=without_noise)
    assert done.white_box_curve == done.ceiling
    assert done.white_box > done.claim
    assert done.black_box > done.claim


@pytest.mark.parametrize(
    ("bug", "given"),
    [
        (ten_times_too_little, parameters()),
        (clipped_by_image, parameters(images=IMAGES)),
        (uncounted_releases, parameters()),
    ],
)
def test_a_bug_in_the_step_refutes_its_claim(bug: Step, given: RehearsalParameters) -> None:
    done = rehearsed(given, step=bug)
    assert done.refuted
    assert "the claim is false" in str(done)


@pytest.mark.soak
def test_half_the_noise_refutes_a_claim_of_3_and_only_the_curve_sees_it() -> None:
    for count, rate in ((60, 1.0), (20, 0.5)):
        steps = at_claim(parameters(PrivateSteps(sample_rate=rate, noise_multiplier=4.0, count=count)), 3.0)
        done = rehearsed(steps, step=half)
        assert done.white_box < done.claim < done.white_box_curve
        assert done.refuted
        assert not rehearsed(steps).refuted


def test_noise_that_is_too_small_is_found_where_the_claim_is_below_the_ceiling() -> None:
    """At a claim of 17 no bound shows the same bug, but the noise itself does."""
    loose = parameters(PrivateSteps(sample_rate=1.0, noise_multiplier=0.75, count=4))
    first = rehearsed(loose, step=ten_times_too_little, canaries=300)
    assert first.bound < first.claim
    assert not first.refutable
    assert first.measured.noise_high < 0.2
    assert first.refuted
    second = rehearsed(at_claim(loose, first.ceiling / 2), step=ten_times_too_little, canaries=300)
    assert second.bound > second.claim
    assert second.refuted


def test_a_claim_above_the_ceiling_is_rehearsed_again_at_half_the_ceiling() -> None:
    loose = parameters(PrivateSteps(sample_rate=1.0, noise_multiplier=0.5, count=2))
    first, second = rehearsals(loose, canaries=100, entropy=entropy("two"), date="2026-01-01")
    assert not first.refutable
    assert second.claim == pytest.approx(first.ceiling / 2, abs=0.01)
    assert replace(second.parameters, steps=loose.steps) == loose
    assert not first.refuted
    assert not second.refuted
    tight = parameters(PrivateSteps(sample_rate=1.0, noise_multiplier=8.0, count=2))
    assert len(rehearsals(tight, canaries=100, entropy=entropy("one"), date="2026-01-01")) == 1


def test_a_canary_has_the_clipping_norm_in_a_direction_of_its_own() -> None:
    """By data alone: the released sum with and without it, under the same noise."""
    given = parameters(heads=HEADS + 1, images=2)
    grades = torch.zeros(20, dtype=torch.int64)
    included = np.arange(20) < 10
    sums = []
    for last in (9, 10):  # canary 9 is in or out
        heads = attacks.made_up(given, included & (np.arange(20) != last), grades, length=attacks.LONG)
        weights = torch.zeros(sum(some.size for some in heads))
        sums.append((clipped_sum(weights, heads, max_norm=0.5).total, heads))
    (without, heads), (with_it, _) = sums
    added = with_it - without
    assert float(added.norm()) == pytest.approx(0.5, rel=1e-6)
    seen = attacks._dirac_coordinates(added.float(), heads, given, 20)
    assert seen[9] == pytest.approx(0.5, rel=1e-5)
    assert np.abs(np.delete(seen, 9)).max() < 1e-6


def test_what_cannot_be_rehearsed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 10 canaries"):
        rehearsed(parameters(), canaries=9)
    with pytest.raises(ConfigurationError, match="Expected images"):
        parameters(images=0)
    with pytest.raises(ConfigurationError, match="32 fresh bytes"):
        rehearse(parameters(), canaries=10, entropy=b"seed", date="2026-01-01")
    assert guesses(10) == (2, 4, 8)
