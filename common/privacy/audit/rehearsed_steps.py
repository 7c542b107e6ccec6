"""The private steps that are rehearsed: heads, heads summed under secure aggregation, a network trained whole.

Each is a :class:`~common.privacy.audit.attacks.Step` over the same made-up patients, made of the functions that sites
run. What is not rehearsed of them: keys, masks and survivors of a secure sum, which the centre's view of it does not
depend on; convolutions, augmentation and the optimiser of a whole network, which come before the clipping or after
the noise.

==================  ============================================================================================
step                what the attacker sees
==================  ============================================================================================
heads               the release of one site
secure sum          the opened sum over the fewest survivors, less the shares of the colluders, who know theirs.
                    One site has all patients; the others have nothing but their share of the noise
whole network       the gradient of a network of one linear layer, of which each canary's picture has a number
                    of its own: exam by exam, many patients a pass
==================  ============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from common.errors import ConfigurationError
from common.exam import MISSING
from common.privacy.audit.attacks import RehearsalParameters, Shares, Step, derived
from common.privacy.mechanism import network_step
from common.privacy.mechanism.heads import Heads
from common.privacy.mechanism.network_step import Exams, PatientGradients, pictures_at_once
from common.privacy.mechanism.noise import KeyStream
from common.privacy.mechanism.patient_step import (
    NoisedGradient,
    StepSettings,
    clipped_each,
    private_gradient,
    sample,
)
from common.privacy.mechanism.private_sum import ROOM, PrivateSum
from common.training.flat_network import FlatNetwork

CPU = torch.device("cpu")
SLOW_CANARIES = 300
"""Canaries at most where each patient's gradient is written out: a secure sum, or a network trained whole."""
SLOW_STEPS = 100
"""Steps at most of a network trained whole."""


def step_of(parameters: RehearsalParameters) -> Step:
    """What a run's sites do with these parameters."""
    if parameters.trained == "network":
        return whole_network
    if parameters.shares is not None:
        return SecureSum(parameters.shares)
    return private_gradient


@dataclass(frozen=True, slots=True)
class SecureSum:
    """A private sum in whole numbers, its noise in shares."""

    shares: Shares

    def __call__(
        self, weights: Tensor, heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
    ) -> NoisedGradient:
        """What the centre and the colluders know once the sum is open."""
        people = max(some.rows.patients for some in heads)
        plan = PrivateSum(
            max_grad_norm=settings.max_grad_norm,
            noise_multiplier=settings.noise_multiplier,
            patients=max(settings.patients, math.ceil(people / ROOM)),  # of these only the ring depends
            sites=self.shares.sites,
            survivors=self.shares.survivors,
            colluders=self.shares.colluders,
            length=len(weights),
        )
        chosen = sample(heads, settings.sample_rate, stream=KeyStream(entropy, "sampling"))
        gradients = clipped_each(weights, chosen, max_norm=settings.max_grad_norm)
        total = plan.vector(
            (one.numpy() for one in gradients), noise="share", entropy=derived(entropy, "site 0")
        )
        for site in range(1, self.shares.survivors - self.shares.colluders):
            total += plan.vector((), noise="share", entropy=derived(entropy, f"site {site}"))
        expected = settings.sample_rate * settings.patients
        return NoisedGradient(
            gradient=torch.from_numpy(total * (plan.grid / expected)).float(),
            sampled=chosen[0].rows.patients,
            not_finite=0,
            largest_norm=settings.max_grad_norm,
            noise_std=settings.noise_multiplier * settings.max_grad_norm / expected,
        )


class _Reader(nn.Module):
    """A network of one linear layer."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.answers = nn.Linear(features, classes)

    def forward(self, pictures: Sequence[Tensor]) -> Tensor:
        """Answers of each picture."""
        answered: Tensor = self.answers(pictures[0])
        return answered


def whole_network(
    weights: Float32[Tensor, " size"], heads: Sequence[Heads], settings: StepSettings, *, entropy: bytes
) -> NoisedGradient:
    """A private step of a network that is trained whole and reads what a head would.

    Raises:
        ConfigurationError: for more than one head, or what a network cannot read.
    """
    if len(heads) != 1 or heads[0].shape.hidden is not None:
        raise ConfigurationError(f"Expected one linear head in the network's place, got {len(heads)}")
    (some,) = heads
    network = FlatNetwork(_Reader(some.shape.features, some.shape.classes), CPU)
    network.load(weights)
    rows = some.rows
    exams_a_pass = min(pictures_at_once(len(weights)), rows.grades[0].numel())
    example = torch.randn(exams_a_pass, some.shape.features, generator=torch.Generator().manual_seed(0))
    gradients = PatientGradients(network, example=[example])
    kept = rows.grades[0] != MISSING
    broken = rows.gram[0].isnan().flatten(1).any(1)
    features = torch.where(broken[:, None, None], torch.nan, rows.features[0])

    def gradients_of(patients: Sequence[int]) -> Iterator[Tensor]:
        chosen = torch.tensor(patients, dtype=torch.long)
        pictures, classes = (part[chosen][kept[chosen]] for part in (features, rows.grades[0]))

        def read(exams: slice) -> Exams:
            return [pictures[exams]], classes[exams]

        return gradients.of_patients(read, kept[chosen].sum(1).tolist(), some.class_weights[0])

    return network_step.private_network_gradient(
        gradients_of, settings, patients=rows.patients, size=len(weights), entropy=entropy
    )
