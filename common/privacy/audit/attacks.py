"""Attacks on a rehearsed run: made-up patients, some of them canaries, and scores of who was in.

The rehearsed code has no place where a canary could be put in, so what makes one is data alone. A canary is a patient
with ``images`` equal pictures and a direction of its own among the features: one number that is zero for everybody
else. The other patients are phantom-like: features of unit length in clusters by grade, rare grades rare.

==============  ===========================================  ==============================================
attack          the attacker                                 how a canary is scored
==============  ===========================================  ==============================================
white box       is the centre: chooses the weights of        likelihood ratio of its coordinate over all
                every round (zero) and sees every release    rounds (Dirac canaries: the gradient has the
                                                             clipping norm, all of it in that coordinate)
black box       sees the heads at the end                    how much its loss fell, against those of its
                                                             grade (label canaries: the grade is arbitrary)
==============  ===========================================  ==============================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from common.errors import ConfigurationError
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.mechanism.heads import (
    Heads,
    HeadShape,
    PatientRows,
    initial_weights,
    layers,
    patient_rows,
)
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.patient_step import NoisedGradient, StepSettings

CLASSES = 4
CANARY_HEADS = 6
"""In how many of the heads canaries have pictures: each makes these as wide as there are canaries."""
OTHERS = 200
"""Patients at most who are no canaries."""
LONG = 1000.0
"""Length of a Dirac canary's features: a millionth of its gradient's square falls to the biases, which all share."""
PREVALENCE = (0.5, 0.25, 0.15, 0.1)
"""Of grades among phantom-like patients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How sites of a secure sum share its noise: S sites, U survivors at least, t colluders."""

    sites: int
    survivors: int
    colluders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalParameters:
    """A run's parameters at a site; all of them public.

    Attributes:
        steps: sample rate (q), noise multiplier (sigma), and how many steps (T).
        max_grad_norm: C > 0.
        patients: N >= 1, the constant that sums are divided by.
        images: of a patient, at most (k).
        heads: tasks x members, >= 1.
        features: that a head reads.
        delta: of the claim, in (0, 1).
        learning_rate: of the rounds, for the black box.
        shares: of the noise, where sums are made under secure aggregation.
        trained: heads on frozen encoders, or a network as a whole.

    Raises:
        ConfigurationError: for values out of range.
    """

    steps: PrivateSteps
    max_grad_norm: float | int
    patients: int
    images: int
    heads: int
    features: int
    delta: float | int
    learning_rate: float | int = 1.0
    shares: Shares | None = None
    trained: Literal["heads", "network"] = "heads"

    def __post_init__(self) -> None:
        self.settings()
        if min(self.images, self.heads, self.features) < 1 or not self.learning_rate > 0:
            raise ConfigurationError(
                f"Expected images, heads and features >= 1 and learning_rate > 0, got {self.images}, {self.heads}, "
                f"{self.features} and {self.learning_rate}"
            )

    def settings(self) -> StepSettings:
        """Of each step."""
        return StepSettings.of(self.steps, max_grad_norm=self.max_grad_norm, patients=self.patients)

    def claim(self) -> float:
        """Epsilon that is booked for all steps, for one patient added or removed."""
        return epsilon([self.steps], delta=self.delta)


@runtime_checkable
class Step(Protocol):
    """:func:`common.privacy.mechanism.patient_step.private_gradient`, or what a test plants in its place."""

    def __call__(  # noqa: D102
        self, weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
    ) -> NoisedGradient: ...


def coordinates(
    parameters: RehearsalParameters,
    included: Bool[np.ndarray, " canaries"],
    *,
    entropy: bytes,
    step: Step,
) -> Float64[np.ndarray, "rounds canaries"]:
    """Each round's release along each Dirac canary's gradient, under zero weights, in clipping norms.

    A canary that takes part adds 1, and all have noise of standard deviation ``noise_multiplier``.
    """
    settings, grades = parameters.settings(), torch.zeros(len(included), dtype=torch.int64)
    heads = made_up(parameters, included, grades, length=LONG)
    weights = torch.zeros(sum(some.size for some in heads))
    unit = settings.max_grad_norm / (settings.sample_rate * settings.patients)
    rounds = [
        _dirac_coordinates(
            step(weights, heads, settings, entropy=fresh).gradient, heads, parameters, len(included)
        )
        for fresh in _entropies(entropy, parameters.steps.count)
    ]
    return np.stack(rounds) / unit


def white_box(
    seen: Float64[np.ndarray, "rounds canaries"], steps: PrivateSteps
) -> Float64[np.ndarray, " canaries"]:
    """Log likelihood ratio of each canary's coordinates over all rounds."""
    q, sigma = steps.sample_rate, steps.noise_multiplier
    with np.errstate(divide="ignore"):
        absent, present = np.log1p(-q), np.log(q)
    ratios: Float64[np.ndarray, " canaries"] = np.logaddexp(
        absent, present + (2 * seen - 1) / (2 * sigma**2)
    ).sum(axis=0)
    return ratios


def black_box(
    parameters: RehearsalParameters,
    included: Bool[np.ndarray, " canaries"],
    *,
    entropy: bytes,
    step: Step,
) -> Float64[np.ndarray, " canaries"]:
    """How much each label canary's loss fell in training, against other canaries of its grade."""
    generator = torch.Generator().manual_seed(0)
    grades = torch.randint(CLASSES, (len(included),), generator=generator)
    heads = made_up(parameters, included, grades, length=1.0)
    start = torch.cat([initial_weights(some.shape, generator) for some in heads for _ in some.class_weights])
    weights = start.clone()
    for fresh in _entropies(entropy, parameters.steps.count):
        released = step(weights, heads, parameters.settings(), entropy=fresh)
        weights = weights - parameters.learning_rate * released.gradient
    fell = _canary_losses(start, heads, parameters, grades) - _canary_losses(
        weights, heads, parameters, grades
    )
    means = torch.stack([fell[grades == grade].mean() for grade in range(CLASSES)]).nan_to_num()
    return (fell - means[grades]).double().numpy()


def made_up(
    parameters: RehearsalParameters,
    included: Bool[np.ndarray, " canaries"],
    grades: Int64[Tensor, " canaries"],
    *,
    length: float,
) -> list[Heads]:
    """Phantom-like patients and the canaries that are in.

    Canary ``i`` has ``length`` in feature ``parameters.features + i`` of the first :data:`CANARY_HEADS` heads, in
    each of its pictures; in other heads it has no grade.
    """
    generator = torch.Generator().manual_seed(0)
    others, images, narrow = min(parameters.patients, OTHERS), parameters.images, parameters.features
    probabilities = torch.tensor(PREVALENCE)
    usual = torch.multinomial(probabilities, others * images, replacement=True, generator=generator)
    centres = torch.randn(CLASSES, narrow, generator=generator)
    pictures = F.normalize(centres[usual] + torch.randn(len(usual), narrow, generator=generator), dim=1)
    taken = torch.from_numpy(np.flatnonzero(included))
    own = torch.zeros(len(taken), narrow + len(included))
    own[torch.arange(len(taken)), narrow + taken] = length
    patient = torch.arange(others + len(taken)).repeat_interleave(images)
    wide = torch.cat([F.pad(pictures, (0, len(included))), own.repeat_interleave(images, dim=0)])
    graded = torch.cat([usual, grades[taken].repeat_interleave(images)])
    kept = torch.cat([usual, torch.full((len(taken) * images,), -1)])
    with_canaries = min(parameters.heads, CANARY_HEADS)
    rows = [_rows(wide, graded, patient, images)] * with_canaries
    if parameters.heads > with_canaries:
        rows += [_rows(wide[:, :narrow], kept, patient, images)] * (parameters.heads - with_canaries)
    return [
        Heads(
            shape=HeadShape(features=one.features.shape[3], classes=CLASSES),
            rows=one,
            class_weights=torch.ones(1, CLASSES),
        )
        for one in rows
    ]


def _rows(
    features: Float32[Tensor, "exams features"],
    grades: Int64[Tensor, " exams"],
    patient: Int64[Tensor, " exams"],
    images: int,
) -> PatientRows:
    return patient_rows(
        features[None, :, None], grades[None], patient, patients=len(patient) // images, images=images
    )


def _dirac_coordinates(
    gradient: Float32[Tensor, " size"], heads: Sequence[Heads], parameters: RehearsalParameters, canaries: int
) -> Float64[np.ndarray, " canaries"]:
    """Component of a release along each Dirac canary's gradient, whose errors are 1/4 - (grade is 0)."""
    error = torch.full((CLASSES,), 1 / CLASSES, dtype=torch.float64)
    error[0] -= 1
    seen = torch.zeros(canaries, dtype=torch.float64)
    parts = _canary_weights(gradient, heads, parameters)
    for part, _ in parts:
        seen += error @ part.double()
    coordinates: Float64[np.ndarray, " canaries"] = (seen / error.norm() / len(parts) ** 0.5).numpy()
    return coordinates


def _canary_losses(
    weights: Float32[Tensor, " size"],
    heads: Sequence[Heads],
    parameters: RehearsalParameters,
    grades: Int64[Tensor, " canaries"],
) -> Float32[Tensor, " canaries"]:
    """Of each canary, in or not: mean cross-entropy over the heads that could have read it."""
    answers = [part.T + bias for part, bias in _canary_weights(weights, heads, parameters)]
    return torch.stack([F.cross_entropy(one, grades, reduction="none") for one in answers]).mean(0)


def _canary_weights(
    flat: Float32[Tensor, " size"], heads: Sequence[Heads], parameters: RehearsalParameters
) -> list[tuple[Float32[Tensor, "classes canaries"], Float32[Tensor, " classes"]]]:
    """Of heads that read canaries: the weights of canaries' features, and the biases."""
    parts = flat.split([some.size for some in heads])[:CANARY_HEADS]
    read = [
        layers(part, some.shape, heads=1)[0] for part, some in zip(parts, heads[:CANARY_HEADS], strict=True)
    ]
    return [(weight[0, :, parameters.features :], bias[0]) for weight, bias in read]


def _entropies(entropy: bytes, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield derived(entropy, f"step {number}")


def derived(entropy: bytes, purpose: str) -> bytes:
    """Entropy of one purpose; a rehearsal may derive it, since it releases nothing of anybody.

    Raises:
        ConfigurationError: for entropy that is not 32 bytes that look random.
    """
    KeyStream(entropy, "sampling")
    return hashlib.blake2b(purpose.encode(), key=entropy, digest_size=32).digest()
