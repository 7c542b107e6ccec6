"""Faults planted in the steps that are rehearsed: each refutes the claim, and the sound steps do not.

Steps of secure sums and of whole networks have their faults planted in the functions that sites run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.audit import measured_step
from common.privacy.audit.attacks import RehearsalParameters, Shares, Step
from common.privacy.audit.rehearsal import Rehearsal, at_claim, rehearsals, rehearse
from common.privacy.mechanism import gaussian_release, network_step
from common.privacy.mechanism.heads import Heads
from common.privacy.mechanism.network_step import Exams, PatientGradients
from common.privacy.mechanism.patient_step import (
    ClippedSum,
    NoisedGradient,
    StepSettings,
    clipped_sum,
    noised,
    private_gradient,
)
from common.privacy.mechanism.private_sum import PrivateSum
from tests.marks import SOAK_CI
from tests.private_heads import entropy

WHOLE = PrivateSteps(sample_rate=1.0, noise_multiplier=11.0, count=30)
SAMPLED = PrivateSteps(sample_rate=0.2, noise_multiplier=4.2, count=100)
HEADS, IMAGES = 6, 4
SHARES = Shares(sites=5, survivors=4, colluders=1)
PERMIT, DEPENDS = "sampling and clipping permit", "depends on who is there"
FEW = 20
"""Patients of a whole network, whose gradients come one by one."""


def parameters(steps: PrivateSteps = WHOLE, *, claim: float = 2.0, **changes: object) -> RehearsalParameters:
    made = RehearsalParameters(
        steps=steps, max_grad_norm=0.5, patients=90, images=IMAGES, heads=HEADS, features=8, delta=1e-5
    )
    return at_claim(replace(made, **changes), claim)  # type: ignore[arg-type]


@cache
def secure() -> RehearsalParameters:
    return parameters(shares=SHARES, heads=2)


@cache
def network() -> RehearsalParameters:
    return parameters(replace(WHOLE, count=6), trained="network", heads=1, patients=FEW)


def rehearsed(given: RehearsalParameters, step: Step | None = None, *, canaries: int = 100) -> Rehearsal:
    return rehearse(given, canaries=canaries, entropy=entropy("faults"), date="2026-01-01", step=step)


def otherwise(**changes: float) -> Step:
    """The step with other settings than are booked."""

    def step(
        weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
    ) -> NoisedGradient:
        return private_gradient(weights, heads, replace(settings, **changes), entropy=entropy)  # type: ignore[arg-type]

    return step


def sampled_otherwise(rate: float) -> Step:
    """More patients than are booked take part; the sum is divided as is booked."""

    def step(
        weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
    ) -> NoisedGradient:
        made = private_gradient(weights, heads, replace(settings, sample_rate=rate), entropy=entropy)
        return replace(made, gradient=made.gradient * (rate / settings.sample_rate))

    return step


def heads_clipped_alone(
    weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    norm = gaussian_release.clipping_norm(settings.max_grad_norm)
    parts = weights.split([some.size for some in heads])
    sums = [clipped_sum(part, [some], max_norm=norm) for part, some in zip(parts, heads, strict=True)]
    total = torch.cat([one.total for one in sums])
    return noised(ClippedSum(total=total, norms=sums[0].norms), settings, entropy=entropy)


def divided_by_who_came(
    weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    made = private_gradient(weights, heads, settings, entropy=entropy)
    expected = settings.sample_rate * settings.patients
    return replace(made, gradient=made.gradient * (expected / max(1, made.sampled)))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(parameters, id="heads"),
        pytest.param(lambda: parameters(SAMPLED), id="heads, sampled", marks=pytest.mark.soak),
        pytest.param(secure, id="secure sum", marks=SOAK_CI),
        pytest.param(network, id="whole network"),
        pytest.param(
            lambda: replace(secure(), steps=replace(SAMPLED, count=20)),
            id="secure sum, sampled",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_the_steps_that_ship_are_as_they_are_booked(given: Callable[[], RehearsalParameters]) -> None:
    done = rehearsed(given())
    assert not done.refuted, str(done)
    assert done.measured.problems == ()
    assert 0.99 < done.measured.change <= 1 + measured_step.ROUNDING
    assert done.measured.noise == pytest.approx(1, abs=0.2)
    assert done.bound < done.claim


@pytest.mark.parametrize(
    ("fault", "steps", "word"),
    [
        pytest.param(sampled_otherwise(0.6), SAMPLED, PERMIT, id="q 0.6 for 0.2", marks=pytest.mark.soak),
        pytest.param(sampled_otherwise(0.4), SAMPLED, PERMIT, id="q 0.4 for 0.2", marks=SOAK_CI),
        pytest.param(
            otherwise(sample_rate=0.6),
            SAMPLED,
            "noise is 0.3",
            id="q 0.6, denominator too",
            marks=pytest.mark.soak,
        ),
        pytest.param(heads_clipped_alone, WHOLE, "by 2.45 clipping norms", id="heads alone"),
        pytest.param(divided_by_who_came, WHOLE, DEPENDS, id="who came"),
        pytest.param(divided_by_who_came, SAMPLED, DEPENDS, id="who came, sampled", marks=pytest.mark.soak),
    ],
)
def test_a_fault_in_the_step_of_heads_refutes_a_claim_of_2(
    fault: Step, steps: PrivateSteps, word: str
) -> None:
    done = rehearsed(parameters(steps), fault, canaries=400 if steps is SAMPLED else 100)
    assert done.refuted
    assert any(word in problem for problem in done.measured.problems), str(done)


def shares_for_all_sites(plan: PrivateSum, noise: str) -> float:
    """Each site's noise as if none of the five could drop out or collude."""
    return plan.noise_multiplier / (plan.sites**0.5 if noise == "share" else 1)


def gradients_not_clipped(weights: Tensor, heads: Sequence[Heads], *, max_norm: float) -> Iterable[Tensor]:
    """Heads one by one, each at the norm of all."""
    from common.privacy.mechanism.patient_step import clipped_each

    parts = weights.split([some.size for some in heads])
    for of_heads in zip(
        *(clipped_each(part, [some], max_norm=max_norm) for part, some in zip(parts, heads, strict=True)),
        strict=True,
    ):
        yield torch.cat(of_heads)


def not_clipped_again(rows: np.ndarray, *, norm: float, norm_steps: int) -> np.ndarray:
    """On the grid, but not held to the norm there."""
    return (rows * (norm_steps / norm)).round().astype("int64")


@pytest.mark.soak
@pytest.mark.ci
def test_shares_made_for_more_sites_than_survive_refute_a_claim_of_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateSum, "_multiplier", shares_for_all_sites)
    done = only(rehearsals(secure(), canaries=200, entropy=entropy("faults"), date="2026-01-01"))
    assert done.refuted
    assert done.measured.noise == pytest.approx((3 / 5) ** 0.5, abs=0.03)


@pytest.mark.soak
def test_a_secure_sum_of_heads_clipped_one_by_one_refutes_a_claim_of_2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from common.privacy.audit import rehearsed_steps

    monkeypatch.setattr(rehearsed_steps, "clipped_each", gradients_not_clipped)
    assert not rehearsed(secure()).refuted  # on the grid everything is clipped once more
    monkeypatch.setattr("common.privacy.mechanism.private_sum.quantise", not_clipped_again)
    done = rehearsed(secure())
    assert done.refuted
    assert done.measured.change == pytest.approx(2**0.5, abs=0.01)


def clipped_by_picture(
    self: PatientGradients, read: Callable[[slice], Exams], counts: Sequence[int], class_weights: Tensor
) -> Iterator[Tensor]:
    """Each picture's gradient clipped, and their sum."""
    first = 0
    for count in counts:
        total = self._blank(1)
        for exam in range(first, first + count):
            rows = self._blank(self.exams_a_pass)
            self._pass(rows, *read(slice(exam, exam + 1)), class_weights, [1])
            total += rows[0] * min(1.0, 0.5 / max(float(rows[0].norm()), 1e-12))
        first += count
        yield total


def summed_without_clipping(blocks: Iterable[Tensor], *, size: int, max_norm: float) -> ClippedSum:
    total, norms = torch.zeros(size, dtype=torch.float64), [torch.empty(0, dtype=torch.float64)]
    for block in blocks:
        total += block.double().nan_to_num().sum(0)
        norms.append(block.double().norm(dim=1))
    return ClippedSum(total=total, norms=torch.cat(norms))


def half_the_noise(summed: ClippedSum, settings: StepSettings, *, entropy: bytes) -> NoisedGradient:
    quieter = replace(settings, noise_multiplier=settings.noise_multiplier / 2)
    return noised(summed, quieter, entropy=entropy)


def everybody(patients: int, settings: StepSettings, entropy: bytes) -> list[int]:
    """Who takes part, where each is to be drawn."""
    return list(range(patients))


def only(found: Sequence[Rehearsal]) -> Rehearsal:
    (one,) = found
    return one


@pytest.mark.parametrize(
    ("name", "fault", "given"),
    [
        pytest.param("clipped_sum", summed_without_clipping, network, id="not clipped"),
        pytest.param("noised", half_the_noise, network, id="half the noise"),
        pytest.param(
            "_sampled",
            everybody,
            lambda: replace(network(), steps=replace(SAMPLED, count=20)),
            id="everybody, booked as sampled",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_a_fault_in_the_step_of_a_whole_network_refutes_a_claim_of_2(
    name: str,
    fault: Callable[..., object],
    given: Callable[[], RehearsalParameters],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network_step, name, fault)
    assert rehearsed(given()).measured.problems


@pytest.mark.soak
def test_pictures_clipped_one_by_one_in_a_whole_network_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientGradients, "of_patients", clipped_by_picture)
    monkeypatch.setattr(network_step, "clipped_sum", summed_without_clipping)
    assert rehearsed(network()).measured.contribution_low > 2
