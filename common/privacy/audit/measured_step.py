"""What a rehearsed step does, measured beside what is claimed of it: sampling, clipping, noise, denominator.

A lower bound on epsilon is far below the claim, so that a fault of a factor of two or three goes unnoticed in it.
Here nothing is inferred from guesses: Dirac canaries have the clipping norm in a direction of their own, so each
number of a release is seen beside what it must be. What an attacker would make of a difference is another question;
a step that is not as it is booked has no claim.

===================  ==============================================  =================================================
measured             claim                                           finds
===================  ==============================================  =================================================
``contribution``     a canary adds at most q C on average            patients sampled more often than is booked; heads
                                                                     or images clipped one by one; no clipping
``noise``            what is left without a canary is no smaller     less noise than is booked; shares made for more
                     than sigma C                                    sites than survive
``change``           under the same noise, one patient more or less  all of these but sampling; division by the number
                     moves the release by at most C                  who came; whatever couples patients
===================  ==============================================  =================================================

The first two are tests at :data:`LEVEL` each, the third has no chance in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.special import ndtri
from scipy.stats import chi2
from torch import Tensor
from torch.nn import functional as F

from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.audit.attacks import CLASSES, LONG, RehearsalParameters, Step, derived
from common.privacy.mechanism.heads import Heads, HeadShape, patient_rows

LEVEL = 1e-6
"""How often a sound step looks wrong, by each of the two tests."""
POWER = 0.95
"""With which the smallest deviations are found that are named."""
COHORT, FEATURES = 24, 8
"""Patients and features of the neighbouring sets of data."""
TRIES, MOST_TRIES = 5, 100
"""Steps in which a sampled patient is expected to take part, when its absence is looked at; and steps at most."""
ROUNDING = 1e-3
"""Of releases in float32, in clipping norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """A step beside its claim.

    Attributes:
        contribution: of a canary on average, over q C.
        contribution_low: the same, at least.
        contribution_findable: the smallest that would be found.
        noise: standard deviation without a canary, over sigma C.
        noise_high: the same, at most.
        noise_findable: by what factor noise must be too small to be found.
        change: the most that one patient moved a release under the same noise, over C.
    """

    contribution: float
    contribution_low: float
    contribution_findable: float
    noise: float
    noise_high: float
    noise_findable: float
    change: float

    @property
    def problems(self) -> tuple[str, ...]:
        """In what the step is not as claimed."""
        return tuple(self._problems())

    def _problems(self) -> Iterator[str]:
        if self.contribution_low > 1:
            yield (
                f"a patient adds {self.contribution:.3g} times what sampling and clipping permit, at least "
                f"{self.contribution_low:.3g} times"
            )
        if self.noise_high < 1:
            yield f"noise is {self.noise:.3g} times what is booked, at most {self.noise_high:.3g} times"
        if not self.change <= 1 + ROUNDING:
            yield (
                f"one patient more or less moves a release by {self.change:.3g} clipping norms under the same noise: "
                f"what others add depends on who is there, or a patient is clipped in parts"
            )

    def __str__(self) -> str:
        return (
            f"a patient adds {self.contribution:.3f} of what is permitted (found from "
            f"{self.contribution_findable:.3g} on), noise is {self.noise:.3f} of what is booked (found if too small "
            f"by {self.noise_findable:.3g}), one patient moves a release by {self.change:.4f} clipping norms"
        )


def measured(
    seen: Float64[np.ndarray, "rounds canaries"],
    included: Bool[np.ndarray, " canaries"],
    parameters: RehearsalParameters,
    *,
    step: Step,
    entropy: bytes,
) -> MeasuredStep:
    """Measure a step.

    Args:
        seen: :func:`.attacks.coordinates` of its rounds.
        included: which canaries were in.
        parameters: that are claimed.
        step: the same, for neighbouring sets of data.
        entropy: 32 bytes.
    """
    steps: PrivateSteps = parameters.steps
    q, sigma = steps.sample_rate, steps.noise_multiplier
    present, absent = seen[:, included], seen[:, ~included]
    deviation = math.sqrt((sigma**2 + q * (1 - q)) / present.size) / q if present.size else math.inf
    contribution = float(present.mean()) / q if present.size else 0.0
    freedom = absent.size
    square = float((absent**2).mean()) / sigma**2 if freedom else 1.0
    least = float(chi2.ppf(LEVEL, freedom)) / freedom if freedom else 0.0
    usual = float(chi2.ppf(POWER, freedom)) / freedom if freedom else 1.0
    return MeasuredStep(
        contribution=contribution,
        contribution_low=contribution + float(ndtri(LEVEL)) * deviation,
        contribution_findable=1 + (float(ndtri(POWER)) - float(ndtri(LEVEL))) * deviation,
        noise=math.sqrt(square),
        noise_high=math.sqrt(square / least) if least else math.inf,
        noise_findable=math.sqrt(usual / least) if least else math.inf,
        change=largest_change(parameters, step=step, entropy=entropy),
    )


def largest_change(parameters: RehearsalParameters, *, step: Step, entropy: bytes) -> float:
    """The most that the last of a few patients moves a release under the same noise, in clipping norms."""
    settings = replace(parameters.settings(), patients=COHORT)
    unit = settings.max_grad_norm / (settings.sample_rate * settings.patients)
    tries = 1 if settings.sample_rate == 1 else min(MOST_TRIES, math.ceil(TRIES / settings.sample_rate))
    largest = 0.0
    for name, (whole, fewer, weights) in _neighbours(parameters).items():
        for number in range(tries):
            fresh = derived(entropy, f"{name} {number}")
            one, other = (
                step(weights, heads, settings, entropy=fresh).gradient.double() for heads in (whole, fewer)
            )
            length = float((one - other).norm()) / unit
            largest = max(largest, length if math.isfinite(length) else math.inf)
    return largest


def _neighbours(parameters: RehearsalParameters) -> dict[str, tuple[list[Heads], list[Heads], Tensor]]:
    """Sets of patients with and without the last of them, and the weights under which they are looked at.

    ``opposed``: all but the last have one and the same long gradient, the last one the opposite.
    ``rare``: anything, the last patient alone with the last grade, under weights that are not zero.
    ``spoilt``: the last patient has a feature that is not a number.
    """
    chance = torch.Generator().manual_seed(0)
    images, many = parameters.images, COHORT * parameters.images
    last = torch.arange(many) >= many - images
    direction = F.normalize(torch.randn(FEATURES, generator=chance), dim=0) * LONG
    anything = torch.randn(many, FEATURES, generator=chance)
    grades = torch.randint(CLASSES - 1, (many,), generator=chance)
    spoilt = anything.clone()
    spoilt[last] = torch.nan
    cases = {
        "opposed": (torch.where(last[:, None], -direction, direction), torch.zeros_like(grades), 0.0),
        "rare": (anything, torch.where(last, CLASSES - 1, grades), 1.0),
        "spoilt": (spoilt, grades, 1.0),
    }
    found = {}
    for name, (features, graded, scale) in cases.items():
        whole, fewer = (_heads(features, graded, parameters, patients) for patients in (COHORT, COHORT - 1))
        weights = scale * torch.randn(sum(some.size for some in whole), generator=chance)
        found[name] = (whole, fewer, weights)
    return found


def _heads(features: Tensor, grades: Tensor, parameters: RehearsalParameters, patients: int) -> list[Heads]:
    images = parameters.images
    kept = patients * images
    rows = patient_rows(
        features[None, :kept, None],
        grades[None, :kept],
        torch.arange(patients).repeat_interleave(images),
        patients=patients,
        images=images,
    )
    one = Heads(
        shape=HeadShape(features=FEATURES, classes=CLASSES), rows=rows, class_weights=torch.ones(1, CLASSES)
    )
    return [one] * parameters.heads
