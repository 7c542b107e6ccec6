"""A round of private training of one whole network at one site: DP-SGD with the patient as its unit.

A round is ``training.local_steps`` private steps of :mod:`common.privacy.mechanism.network_step`; what the optimiser
makes of a noised gradient costs nothing more. Whoever is not held out takes
part: private training has no validation fold.

Augmentation is drawn for the patient's first, second, ... exam from the public seed and the step, alike for every
patient with as many, so that nobody's pictures depend on who else takes part, nor on how many of them a pass holds.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from common.errors import ConfigurationError
from common.exam import MISSING
from common.networks import build
from common.networks.jigsaw import TILES
from common.privacy.mechanism.exam_gradients import Pictures
from common.privacy.mechanism.network_step import (
    Exams,
    PatientGradients,
    pictures_at_once,
    private_network_gradient,
)
from common.privacy.mechanism.patient_step import StepSettings
from common.training.data import ExamTensors
from common.training.flat_network import FlatNetwork
from common.training.inputs import Drawn, applied, draw, labels
from common.training.local import LocalUpdate, fresh_optimiser
from common.training.local_settings import LocalSettings
from common.training.schedule import learning_rate
from common.training.seeds import derive_seed

DRAWN_AT_ONCE = 32
"""Pictures of a patient whose augmentation is drawn together; another number draws another."""
EVEN = 16
"""Exams a pass at least, where memory has room: of fewer, libraries round the last otherwise than the first."""


class PrivateTraining:
    """One network in one round: :meth:`step` for each private step, then :meth:`update`.

    Whoever calls books a step before its entropy exists (:mod:`client.rounds.booking`).

    Args:
        weights: received weights; not changed.
        data: the site's exams.
        local: what to train and how; ``sampling`` must be ``all``, for patients are drawn by ``sample_rate``.
        settings: clipping, noise, rate and denominator of each step; public.
        images: the most of a patient's exams that enter (k).
        class_weights: public constants of the loss, one per class.
        server_round: counts from 1; places the round on the learning rate's schedule.
        seed: of augmentation, public; noise and sampling have none.
        share: by what the pictures of a pass are divided, where memory is short: who takes part, pictures and noise
            stay, a patient's gradient is the same but for rounding.

    Raises:
        ConfigurationError: for a network, a sampling or class weights that private training cannot have.
        torch.OutOfMemoryError: if a pass does not fit: one as large as any is tried on pictures of nobody, before
            anybody is sampled.
    """

    def __init__(
        self,
        weights: Float32[Tensor, " size"],
        data: ExamTensors,
        local: LocalSettings,
        settings: StepSettings,
        *,
        images: int,
        class_weights: Float32[Tensor, " classes"],
        server_round: int,
        seed: int,
        share: int = 1,
    ) -> None:
        _check(local, images, class_weights)
        frozen = tuple(piece.part for piece in local.spec.frozen)
        network = FlatNetwork(build.network(local.spec, local.network), local.device, frozen=frozen)
        network.load(weights, local.frozen)
        frames = max(_frames(local))
        most = max(1, pictures_at_once(network.layout.trained_size) // frames)
        expected = settings.sample_rate * settings.patients * images
        exams_a_pass = max(EVEN, math.ceil(expected / math.ceil(expected / most)))
        self._cohort = _Cohort(
            data=data,
            local=local,
            gradients=PatientGradients(
                network, example=_example(local, exams=max(1, min(most, exams_a_pass) // share))
            ),
            drawn_at_once=max(1, min(DRAWN_AT_ONCE // frames, most)),
            patients=tuple(patients_exams(data, local, images=images)),
            classes=labels(data, local.spec),
            class_weights=class_weights.to(local.device),
        )
        self._optimiser = fresh_optimiser(network.trained, local.training)
        self._weights, self._network, self._local, self._settings = weights, network, local, settings
        self._seed, self._number = seed, (server_round - 1) * local.training.local_steps

    def step(self, patients: Container[int] | None = None, *, entropy: bytes) -> None:
        """Draw one step and take it.

        Args:
            patients: who takes part in it, by their numbers in ``data.patient``; ``None``: all.
            entropy: 32 bytes from the operating system, for this step only.

        Raises:
            ConfigurationError: for bad entropy.
        """
        taking_part, training = self._cohort.of(patients), self._local.training
        noised = private_network_gradient(
            partial(
                taking_part.of_patients, chance=derive_seed(self._seed, "private augmentation", self._number)
            ),
            self._settings,
            patients=len(taking_part.patients),
            size=self._network.layout.trained_size,
            entropy=entropy,
        )
        gradient = self._network.trained.grad
        assert gradient is not None
        gradient.copy_(noised.gradient)
        rate = learning_rate(training, step=self._number, total=self._local.rounds * training.local_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._number += 1

    def update(self) -> LocalUpdate:
        """What the steps so far have changed; it may leave. Example count and loss are constants."""
        return LocalUpdate(update=self._network.flat.cpu() - self._weights, num_examples=1, loss=float("nan"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cohort:
    """Who may be sampled, with all that their gradients are computed from."""

    data: ExamTensors
    local: LocalSettings
    gradients: PatientGradients
    drawn_at_once: int
    patients: tuple[Int64[Tensor, " _"], ...]
    classes: Int64[Tensor, " all"]
    class_weights: Float32[Tensor, " classes"]

    def of(self, numbers: Container[int] | None) -> _Cohort:
        """Those alone of these numbers."""
        if numbers is None:
            return self
        chosen = tuple(exams for exams in self.patients if int(self.data.patient[exams[0]]) in numbers)
        return replace(self, patients=chosen)

    def of_patients(
        self, numbers: Sequence[int], *, chance: int
    ) -> Iterator[Float32[Tensor, "patients size"]]:
        """The gradients of some patients, under the augmentation of a step."""
        chosen = [self.patients[number] for number in numbers]
        counts = [len(exams) for exams in chosen]
        drawn = {count: list(self._drawn(chosen[counts.index(count)], chance)) for count in set(counts)}
        exams = torch.cat([torch.empty(0, dtype=torch.long), *chosen])
        whole = Drawn.together([part for count in counts for part in drawn[count]])

        def read(some: slice) -> Exams:
            one = exams[some]
            return applied(self.data, one, self.classes[one], self.local, whole.part(some))

        return self.gradients.of_patients(read, counts, self.class_weights)

    def _drawn(self, exams: Tensor, chance: int) -> Iterator[Drawn]:
        """What chance says of a patient's exams; of others as many it says the same."""
        generator = torch.Generator().manual_seed(chance)
        for some in exams.split(self.drawn_at_once):
            yield draw(self.data, some, self.local, generator)


def patients_exams(data: ExamTensors, local: LocalSettings, *, images: int) -> list[Int64[Tensor, " _"]]:
    """The exams of each patient who may be sampled: the first ``images`` that are graded and not held out."""
    usable = (data.fold != MISSING) & (labels(data, local.spec) != MISSING)
    exams = torch.nonzero(usable).flatten()
    owners = data.patient[exams]
    return [exams[owners == patient][:images] for patient in owners.unique()]


def check_network(local: LocalSettings) -> None:
    """Whether a network can be trained privately at all, tried on pictures of nobody, before anything is trained.

    Raises:
        ConfigurationError: if its sampling, its norms or its layers do not permit that.
    """
    _check_sampling(local)
    frozen = tuple(piece.part for piece in local.spec.frozen)
    network = FlatNetwork(build.network(local.spec, local.network), local.device, frozen=frozen)
    chance = torch.Generator().manual_seed(0)
    nobodys = {part: torch.randn(len(flat), generator=chance) * 0.05 for part, flat in network.frozen.items()}
    network.load(build.initial_weights(local.spec, local.network, seed=0), nobodys)
    PatientGradients(network, example=_example(local, exams=2))


def _example(local: LocalSettings, *, exams: int) -> Pictures:
    """Pictures of nobody, of the network's shape."""
    generator = torch.Generator().manual_seed(0)
    jigsaw, px = local.spec.jigsaw, local.network.image_px
    size = (3, px, px) if jigsaw is None else (TILES, 3, jigsaw.tile_px, jigsaw.tile_px)
    shapes = [(exams, *size) if frames == 1 else (exams, frames, *size) for frames in _frames(local)]
    return [torch.randn(shape, generator=generator).to(local.device) for shape in shapes]


def _frames(local: LocalSettings) -> list[int]:
    """Of each image that the network reads, how many pictures stand for an exam."""
    return [local.images[name].frames or 1 for name in local.spec.images]


def _check(local: LocalSettings, images: int, class_weights: Tensor) -> None:
    _check_sampling(local)
    if images < 1 or len(class_weights) != local.spec.target.classes:
        raise ConfigurationError(
            f"Expected at least one image per patient and {local.spec.target.classes} class weights, got {images} "
            f"and {len(class_weights)}"
        )


def _check_sampling(local: LocalSettings) -> None:
    if local.training.sampling != "all":
        raise ConfigurationError(
            f'Expected training.sampling = "all" in private training, got "{local.training.sampling}": patients are '
            f"drawn by privacy.sample_rate, and resampling exams would break the accounting"
        )
