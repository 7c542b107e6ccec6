"""A round of private training of one whole network at one site: DP-SGD with the patient as its unit.

A round is ``training.local_steps`` private steps of :mod:`common.privacy.mechanism.network_step`. Each is booked
before it is drawn; what the optimiser makes of a noised gradient costs nothing more. Whoever is not held out takes
part: private training has no validation fold.

Augmentation is drawn for the patient's first, second, ... exam from the public seed and the step, alike for every
patient, so that nobody's pictures depend on who else takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from common.errors import ConfigurationError
from common.networks import build
from common.networks.jigsaw import TILES
from common.privacy.accounting.accounting import PrivateSteps
from common.privacy.mechanism.network_step import PictureGradients, Pictures, private_network_gradient
from common.privacy.mechanism.patient_step import StepSettings
from common.training.data import MISSING, ExamTensors
from common.training.flat_network import FlatNetwork
from common.training.inputs import inputs, labels
from common.training.local import LocalUpdate, fresh_optimiser
from common.training.local_settings import LocalSettings
from common.training.schedule import learning_rate
from common.training.seeds import derive_seed


def private_network_steps(
    weights: Float32[Tensor, " size"],
    data: ExamTensors,
    local: LocalSettings,
    settings: StepSettings,
    *,
    images: int,
    class_weights: Float32[Tensor, " classes"],
    server_round: int,
    seed: int,
    reserve: Callable[[PrivateSteps], Container[int] | None],
    entropy_of: Callable[[], bytes],
) -> LocalUpdate:
    """Train one network for one round, privately.

    Args:
        weights: received weights; not changed.
        data: the site's exams.
        local: what to train and how; ``sampling`` must be ``all``, for patients are drawn by ``sample_rate``.
        settings: clipping, noise, rate and denominator of each step; public.
        images: at most so many of a patient's exams enter (k).
        class_weights: public constants of the loss, one per class.
        server_round: counts from 1; places the round on the learning rate's schedule.
        seed: of augmentation, public; noise and sampling have none.
        reserve: books a step, and says which patients take part in it, by their numbers in ``data.patient``;
            ``None``: all. Called before each step, and what it raises ends the round with nothing released.
        entropy_of: 32 fresh bytes from the operating system; called once per step, after it was booked.

    Returns:
        The update, which may leave. Example count and loss are constants.

    Raises:
        ConfigurationError: for a network, a sampling, class weights or entropy that private training cannot have.
    """
    _check(local, images, class_weights)
    frozen = tuple(piece.part for piece in local.spec.frozen)
    network = FlatNetwork(build.network(local.spec, local.network), local.device, frozen=frozen)
    network.load(weights, local.frozen)
    cohort = _Cohort(
        data=data,
        local=local,
        gradients=PictureGradients(network, example=_example(local)),
        patients=tuple(patients_exams(data, local, images=images)),
        classes=labels(data, local.spec),
        class_weights=class_weights.to(local.device),
    )
    training = local.training
    optimiser = fresh_optimiser(network, training)
    assert network.trained.grad is not None
    before = (server_round - 1) * training.local_steps
    for step in range(before, before + training.local_steps):
        taking_part = cohort.of(reserve(settings.cost()))
        noised = private_network_gradient(
            partial(taking_part.gradient, chance=derive_seed(seed, "private augmentation", step)),
            settings,
            patients=len(taking_part.patients),
            size=network.layout.trained_size,
            entropy=entropy_of(),
        )
        network.trained.grad.copy_(noised.gradient)
        rate = learning_rate(training, step=step, total=local.rounds * training.local_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    return LocalUpdate(update=network.flat.cpu() - weights, num_examples=1, loss=float("nan"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cohort:
    """Who may be sampled, with all that their gradients are computed from."""

    data: ExamTensors
    local: LocalSettings
    gradients: PictureGradients
    patients: tuple[Int64[Tensor, " _"], ...]
    classes: Int64[Tensor, " all"]
    class_weights: Float32[Tensor, " classes"]

    def of(self, numbers: Container[int] | None) -> _Cohort:
        """Those alone of these numbers."""
        if numbers is None:
            return self
        chosen = tuple(exams for exams in self.patients if int(self.data.patient[exams[0]]) in numbers)
        return replace(self, patients=chosen)

    def gradient(self, number: int, *, chance: int) -> Float32[Tensor, " size"]:
        """Of one patient, under the augmentation of a step."""
        exams = self.patients[number]
        return self.gradients.of_patient(self._batches(exams, chance), self.class_weights, exams=len(exams))

    def _batches(self, exams: Tensor, chance: int) -> Iterator[tuple[Pictures, Tensor]]:
        generator = torch.Generator().manual_seed(chance)
        for some in exams.split(self.gradients.pictures_at_once):
            yield inputs(self.data, some, self.classes[some], self.local, generator)


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
    PictureGradients(network, example=_example(local))


def _example(local: LocalSettings) -> Pictures:
    """Two pictures of nobody, of the network's shape."""
    generator = torch.Generator().manual_seed(0)
    jigsaw, px = local.spec.jigsaw, local.network.image_px
    shape = (2, 3, px, px) if jigsaw is None else (2, TILES, 3, jigsaw.tile_px, jigsaw.tile_px)
    return [torch.randn(shape, generator=generator).to(local.device) for _ in local.spec.images]


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
