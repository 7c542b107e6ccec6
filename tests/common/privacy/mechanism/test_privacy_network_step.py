import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from opacus.accountants import PRVAccountant
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import ConfigurationError
from common.exam import MISSING
from common.networks import build
from common.networks.layout import load
from common.networks.spec import NetworkSpec, Piece, Target
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.mechanism import network_step, patient_step
from common.privacy.mechanism.gaussian_release import clipping_norm
from common.privacy.mechanism.heads import Heads, HeadShape, patient_rows
from common.privacy.mechanism.network_step import (
    Exams,
    PatientGradients,
    clipped_sum,
    pictures_at_once,
    private_network_gradient,
)
from common.privacy.mechanism.network_training import PrivateTraining, patients_exams
from common.privacy.mechanism.patient_step import StepSettings
from common.sections.methods import JigsawSettings
from common.sections.networks import NetworkSettings
from common.training.data import ExamTensors
from common.training.flat_network import FlatNetwork
from common.training.inputs import inputs, labels
from common.training.local import LocalUpdate
from common.training.local_settings import LocalSettings
from common.training.schedule import learning_rate
from tests.exam_tensors import FUSION, NETWORK, local_settings, make_exams
from tests.private_heads import entropy

EXAMS, PATIENTS, IMAGES = 60, 12, 3
GRADES = NetworkSpec(
    name="rating/fold0/vascularity/grades/a",
    images=("doppler",),
    target=Target(measurement="vascularity", kind="nominal", threshold=None, classes=4),
    fold=0,
)
WEIGHTS = {2: torch.tensor([1.0, 2.5]), 4: torch.tensor([1.0, 1.5, 2.0, 3.0])}
PLAIN: dict[str, Any] = {"augmentation": None, "schedule": "constant", "weight_decay": 0.0, "sampling": "all"}
STEP = StepSettings(max_grad_norm=0.5, noise_multiplier=1.0, sample_rate=1.0, patients=PATIENTS)


def exams(*, without: int | None = None) -> ExamTensors:
    """Exams of twelve patients, in mixed order; some are held out, some have no grade."""
    data = make_exams(EXAMS)
    chosen = torch.randint(0, PATIENTS, (EXAMS - PATIENTS,), generator=torch.Generator().manual_seed(0))
    patient = torch.cat([torch.arange(PATIENTS), chosen]).int().flip(0)
    grades = {name: torch.where(torch.arange(EXAMS) % 11 == 0, MISSING, g) for name, g in data.grades.items()}
    data = replace(data, patient=patient, grades=grades)
    if without is None:
        return data
    keep = patient != without
    return ExamTensors(
        images={name: pixels[keep] for name, pixels in data.images.items()},
        grades={name: values[keep] for name, values in data.grades.items()},
        fold=data.fold[keep],
        patient=patient[keep] - (patient[keep] > without).int(),
    )


DATA = exams()


def settings_of(spec: NetworkSpec = GRADES, **training: Any) -> LocalSettings:
    return local_settings(spec, **(PLAIN | training))


def start(local: LocalSettings, seed: int = 1) -> Tensor:
    return build.initial_weights(local.spec, local.network, seed=seed)


def batched(local: LocalSettings, weights: Tensor, *, exams: int = 16) -> PatientGradients:
    network = FlatNetwork(build.network(local.spec, local.network), local.device)
    network.load(weights)
    generator = torch.Generator().manual_seed(0)
    example = [torch.randn(exams, 3, 32, 32, generator=generator) for _ in local.spec.images]
    return PatientGradients(network, example=example)


def shipped_gradients(
    local: LocalSettings, weights: Tensor, data: ExamTensors = DATA, *, exams: int = 16
) -> list[Tensor]:
    """Each patient's, by what is shipped."""
    gradients, classes = batched(local, weights, exams=exams), labels(data, local.spec)
    owned = patients_exams(data, local, images=IMAGES)
    each = [inputs(data, own, classes[own], local, torch.Generator().manual_seed(3)) for own in owned]
    return in_passes(gradients, each)


def in_passes(gradients: PatientGradients, each: Sequence[tuple[list[Tensor], Tensor]]) -> list[Tensor]:
    """The gradients of patients, of whom each has some pictures with their classes."""
    pictures = [torch.cat(parts) for parts in zip(*(pictures for pictures, _ in each), strict=True)]
    classes = torch.cat([theirs for _, theirs in each])

    def read(some: slice) -> Exams:
        return [part[some] for part in pictures], classes[some]

    counts = [len(theirs) for _, theirs in each]
    outputs = gradients.network.module(pictures).shape[1]
    return [one for block in gradients.of_patients(read, counts, WEIGHTS[outputs]) for one in block.clone()]


def plain_network(local: LocalSettings, weights: Tensor) -> nn.Module:
    network = build.network(local.spec, local.network)
    load(network, weights)
    return network.train()


def plain_gradients(local: LocalSettings, weights: Tensor, data: ExamTensors = DATA) -> list[Tensor]:
    """The definition, patient by patient and exam by exam."""
    network, classes = plain_network(local, weights), labels(data, local.spec)
    found = []
    for patient in sorted(set(data.patient.tolist())):
        usable = (data.patient == patient) & (data.fold != MISSING) & (classes != MISSING)
        own = usable.nonzero().flatten()[:IMAGES]
        if len(own):
            losses = []
            for exam in own.split(1):
                pictures, truth = inputs(data, exam, classes[exam], local, None)
                loss = F.cross_entropy(network(pictures), truth)
                losses.append(loss * WEIGHTS[local.spec.target.classes][truth[0]])
            gradient = torch.autograd.grad(torch.stack(losses).mean(), list(network.parameters()))
            found.append(torch.cat([g.flatten() for g in gradient]))
    return found


def clipped(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    wide = torch.stack(list(gradients)).double()
    scale: Tensor = (max_norm / wide.norm(dim=1, keepdim=True)).clamp(max=1)
    return (wide * scale).sum(0)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("spec", [GRADES, FUSION])
def test_the_sum_is_that_of_a_plain_loop_over_patients(spec: NetworkSpec) -> None:
    local = settings_of(spec)
    weights = start(local)
    ours, theirs = shipped_gradients(local, weights), plain_gradients(local, weights)
    assert len(ours) == len(theirs) == PATIENTS
    norms = torch.stack(theirs).norm(dim=1)
    for max_norm in (1e-3, float(norms.median()), 1e3):
        summed = clipped_sum([torch.stack(ours)], size=len(weights), max_norm=max_norm)
        assert relative(summed.total, clipped(theirs, max_norm)) < 3e-6
        torch.testing.assert_close(summed.norms.float(), norms, rtol=3e-6, atol=0)


class Pixels(nn.Module):
    """A backbone without weights: a coarse copy of the picture."""

    features = 12

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


def own(local: LocalSettings, backbone: type) -> LocalSettings:
    return replace(local, network=NETWORK.model_copy(update={"backbone": f"{__name__}:{backbone.__name__}"}))


def test_a_linear_head_is_trained_as_the_step_for_heads_trains_it() -> None:
    local = own(settings_of(), Pixels)
    weights = start(local)
    usable = (DATA.fold != MISSING) & (labels(DATA, GRADES) != MISSING)
    pictures, _ = inputs(DATA, torch.arange(EXAMS), torch.zeros(EXAMS).long(), local, None)
    rows = patient_rows(
        Pixels(local.network)(pictures[0])[usable][None, :, None],
        labels(DATA, GRADES)[usable][None],
        DATA.patient[usable].long(),
        patients=PATIENTS,
        images=IMAGES,
    )
    heads = [Heads(shape=HeadShape(features=12), rows=rows, class_weights=WEIGHTS[4][None])]
    for max_norm in (0.1, 1.0):
        expected = patient_step.clipped_sum(weights, heads, max_norm=max_norm)
        found = clipped_sum(
            [torch.stack(shipped_gradients(local, weights))], size=len(weights), max_norm=max_norm
        )
        assert relative(found.total, expected.total) < 3e-6
        torch.testing.assert_close(found.norms, expected.norms, rtol=3e-6, atol=0)


def test_a_patient_is_one_vector_however_many_passes_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    local = settings_of(**ONE)
    weights = start(local)
    assert pictures_at_once(len(weights)) == network_step.PICTURES_AT_ONCE
    together = train(local, images=7, entropy_of=lambda: entropy("fixed")).update
    monkeypatch.setattr(network_step, "GRADIENT_BYTES", 4 * len(weights))
    assert pictures_at_once(len(weights)) == 1
    one_by_one = train(local, images=7, entropy_of=lambda: entropy("fixed")).update
    assert relative(one_by_one, together) < 1e-5


def test_one_patient_more_changes_the_sum_by_that_patient_alone() -> None:
    """To the bit: nobody's gradient depends on who else takes part; and by no more than the clipping norm."""
    local = settings_of(augmentation=local_settings().training.augmentation)
    weights = start(local)
    all_of_them = shipped_gradients(local, weights)
    for patient in (0, 5, 11):
        others = shipped_gradients(local, weights, exams(without=patient))
        expected = all_of_them[:patient] + all_of_them[patient + 1 :]
        assert all(torch.equal(a, b) for a, b in zip(others, expected, strict=True))
        bound = clipping_norm(0.05)
        one = clipped_sum([torch.stack(all_of_them)], size=len(weights), max_norm=bound).total
        other = clipped_sum([torch.stack(others)], size=len(weights), max_norm=bound).total
        assert 0.04 < float((one - other).norm()) <= 0.05


def test_exams_beyond_the_cap_and_held_out_ones_are_not_read() -> None:
    local = settings_of()
    read = torch.cat(patients_exams(DATA, local, images=IMAGES))
    counts = DATA.patient[read].bincount()
    assert counts.tolist() == [min(IMAGES, n) for n in _usable().tolist()]
    assert counts.max() == IMAGES < _usable().max()
    pictures = {name: pixels.clone() for name, pixels in DATA.images.items()}
    for pixels in pictures.values():
        unread = torch.ones(EXAMS, dtype=torch.bool)
        unread[read] = False
        pixels[unread] = 255 - pixels[unread]
    changed = replace(DATA, images=pictures)
    fold = torch.where(DATA.fold == MISSING, MISSING, 0).to(torch.int8)  # the network's own fold trains too
    for data in (changed, replace(changed, fold=fold)):
        found = shipped_gradients(local, start(local), data)
        expected = shipped_gradients(local, start(local))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def _usable() -> Tensor:
    usable = (DATA.fold != MISSING) & (labels(DATA, GRADES) != MISSING)
    return DATA.patient[usable].bincount(minlength=PATIENTS)


def test_a_gradient_that_is_not_finite_counts_as_zero() -> None:
    gradients = [
        torch.ones(5),
        torch.full((5,), torch.nan),
        torch.tensor([1, torch.inf, 0, 0, 0]),
        torch.zeros(5),
    ]
    for at_once in (1, 3, 4):
        summed = clipped_sum(torch.stack(gradients).split(at_once), size=5, max_norm=0.5)
        torch.testing.assert_close(summed.total, torch.full((5,), 0.5 / math.sqrt(5)).double())
        assert summed.norms.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("exams", [1, 2, 5, 16, 64])
def test_blocks_and_passes_of_any_size_give_the_same(exams: int) -> None:
    """Patients of one, two or three exams, some of whom a pass begins and the next one ends."""
    local = settings_of()
    ours = shipped_gradients(local, start(local), exams=exams)
    assert len(ours) == PATIENTS
    for one, other in zip(ours, plain_gradients(local, start(local)), strict=True):
        assert relative(one, other) < 3e-6
    whole = clipped_sum([torch.stack(ours)], size=len(ours[0]), max_norm=0.05)
    parted = clipped_sum(torch.stack(ours).split(5), size=len(ours[0]), max_norm=0.05)
    assert relative(parted.total, whole.total) < 1e-14


@pytest.mark.parametrize("planted", [math.nan, math.inf, 1e38])
def test_a_patient_whose_pictures_are_broken_changes_nobody_else(planted: float) -> None:
    """To the bit, whether they lie in one pass or in two."""
    local = settings_of()
    gradients, classes = batched(local, start(local)), labels(DATA, local.spec)
    assert gradients.exams_a_pass == 16
    owned = patients_exams(DATA, local, images=IMAGES)
    each = [inputs(DATA, own, classes[own], local, None) for own in owned]
    sound = in_passes(gradients, each)
    each[4] = [part.clone().index_fill(0, torch.tensor(0), planted) for part in each[4][0]], each[4][1]
    found = in_passes(gradients, each)
    assert not found[4].isfinite().all()
    for number, (one, other) in enumerate(zip(found, sound, strict=True)):
        assert number == 4 or torch.equal(one, other)
    summed = clipped_sum([torch.stack(found)], size=gradients.size, max_norm=0.05)
    others = clipped_sum([torch.stack([*sound[:4], *sound[5:]])], size=gradients.size, max_norm=0.05)
    assert relative(summed.total, others.total) < 1e-14
    assert int(summed.norms.isnan().sum()) == 1


def train(
    local: LocalSettings,
    settings: StepSettings = STEP,
    *,
    data: ExamTensors = DATA,
    weights: Tensor | None = None,
    images: int = IMAGES,
    server_round: int = 1,
    share: int = 1,
    entropy_of: Callable[[], bytes] = lambda: os.urandom(32),
) -> LocalUpdate:
    training = PrivateTraining(
        start(local) if weights is None else weights,
        data,
        local,
        settings,
        images=images,
        class_weights=WEIGHTS[local.spec.target.classes],
        server_round=server_round,
        seed=5,
        share=share,
    )
    for _ in range(local.training.local_steps):
        training.step(entropy=entropy_of())
    return training.update()


def noise_of(update: Tensor, settings: StepSettings) -> Tensor:
    """The noise of one SGD step of rate 1, in units of what it should be, where nobody has a gradient."""
    return (
        -update.double()
        * settings.sample_rate
        * settings.patients
        / (settings.noise_multiplier * settings.max_grad_norm)
    )


ONE: dict[str, Any] = {"optimiser": "sgd", "learning_rate": 1.0, "local_steps": 1}


def test_smaller_passes_have_the_same_pictures_and_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn of a patient's pictures does not go by the size of a pass."""
    local = settings_of(augmentation=local_settings().training.augmentation, **ONE)
    passes: list[int] = []
    original = PatientGradients._pass

    def counted(self: PatientGradients, rows: Tensor, *rest: Any) -> None:
        passes.append(len(rows))
        original(self, rows, *rest)

    monkeypatch.setattr(PatientGradients, "_pass", counted)
    most, found = 4, {}
    for share in (1, 2, 16):
        del passes[:]
        found[share] = train(local, images=most, share=share, entropy_of=lambda: entropy("share")).update
        assert passes[0] == max(passes) == PATIENTS * most // share
    for share in (2, 16):
        torch.testing.assert_close(found[share], found[1], rtol=0, atol=1e-5 * float(found[1].abs().max()))


def test_noise_is_right_with_nobody_and_two_thirds_of_it_is_not() -> None:
    local = settings_of(**ONE)
    nobody = replace(DATA, fold=torch.full_like(DATA.fold, MISSING))
    for data, settings in (
        (nobody, replace(STEP, sample_rate=0.2)),
        (DATA, replace(STEP, sample_rate=1e-12, noise_multiplier=3.0)),
    ):
        noise = noise_of(train(local, settings, data=data).update, settings)
        margin = 6 * math.sqrt(2 / len(noise))
        assert abs(float(noise.square().mean()) - 1) < margin
        for wrong in (2 / 3, 3 / 2):
            assert abs(float((wrong * noise).square().mean()) - 1) > margin


def test_weights_that_are_not_finite_give_noise_alone() -> None:
    local = settings_of(**ONE)
    weights = start(local)
    gradients = batched(local, weights * torch.nan)
    (found,) = in_passes(gradients, [inputs(DATA, torch.arange(2), torch.tensor([0, 1]), local, None)])
    assert found.isnan().any()
    noised = private_network_gradient(
        lambda numbers: [found.expand(len(numbers), -1)],
        STEP,
        patients=3,
        size=len(weights),
        entropy=entropy("nan"),
    )
    assert noised.gradient.isfinite().all()
    assert (noised.sampled, noised.not_finite, noised.largest_norm) == (3, 3, 0.0)


def test_two_runs_differ_and_so_do_the_steps_of_one() -> None:
    local = settings_of(**ONE)
    nobody = replace(DATA, fold=torch.full_like(DATA.fold, MISSING))
    one, other = (train(local, data=nobody).update for _ in range(2))
    assert abs(float(F.cosine_similarity(one, other, dim=0))) < 0.1
    two = settings_of(**(ONE | {"local_steps": 2}))
    noise = noise_of(train(two, data=nobody).update, STEP)
    assert abs(float(noise.square().mean()) - 2) < 12 * math.sqrt(2 / len(noise))


def test_neighbouring_data_do_not_give_the_record_away() -> None:
    local = settings_of(**ONE)
    gradients = shipped_gradients(local, start(local))
    record = gradients[5]
    difference = train(local).update - train(local, data=exams(without=5)).update
    assert abs(float(F.cosine_similarity(difference, record, dim=0))) < 0.2


def test_patients_are_sampled_each_with_the_rate() -> None:
    settings = replace(STEP, sample_rate=0.2)
    counts = torch.zeros(50)

    def gradients_of(numbers: Sequence[int]) -> list[Tensor]:
        counts[list(numbers)] += 1
        return [torch.ones(len(numbers), 3)]

    sizes = []
    for run in range(400):
        step = private_network_gradient(
            gradients_of, settings, patients=50, size=3, entropy=entropy("q", run)
        )
        sizes.append(step.sampled)
    assert sum(sizes) == counts.sum()
    assert abs(float(counts.mean()) / 400 - 0.2) < 0.015
    assert counts.min() > 40
    assert 5 < float(torch.tensor(sizes).float().var()) < 11.5  # 50 * 0.2 * 0.8 = 8; shuffled epochs have 0
    assert private_network_gradient(gradients_of, STEP, patients=50, size=3, entropy=entropy(0)).sampled == 50


def test_every_step_is_drawn_once_and_costs_what_the_plan_says() -> None:
    local = settings_of(local_steps=5)
    settings = replace(STEP, sample_rate=0.2, noise_multiplier=2.98)
    booked: list[PrivateSteps] = []

    def entropy_of() -> bytes:
        booked.append(settings.cost())
        return os.urandom(32)

    for server_round in (1, 2):
        train(local, settings, server_round=server_round, entropy_of=entropy_of)
    assert len(booked) == 10
    plan = PrivateSteps(sample_rate=0.2, noise_multiplier=2.98, count=10)
    spent = epsilon(booked, delta=1e-5)
    assert spent == epsilon([plan], delta=1e-5)
    accountant = PRVAccountant()
    for _ in range(10):
        accountant.step(noise_multiplier=2.98, sample_rate=0.2)
    assert accountant.get_epsilon(1e-5) == pytest.approx(spent, abs=0.02)


def test_it_is_gradient_descent_on_the_clipped_mean() -> None:
    """With next to no noise: three steps of the second round, on the schedule."""
    local = settings_of(optimiser="sgd", learning_rate=0.5, schedule="rating")
    quiet = replace(STEP, noise_multiplier=1e-9)
    weights = start(local)
    expected = weights
    for step in range(3, 6):
        mean = clipped(plain_gradients(local, expected), clipping_norm(0.5)) / PATIENTS
        expected = expected - learning_rate(local.training, step=step, total=12) * mean.float()
    got = train(local, quiet, weights=weights, server_round=2)
    assert relative(got.update, expected - weights) < 2e-3  # the grid of the release
    assert (got.num_examples, math.isnan(got.loss), got.extra) == (1, True, {})


def test_a_puzzle_network_trains_too() -> None:
    jigsaw = JigsawSettings(image_px=48, tile_px=16, permutations=4)
    spec = NetworkSpec(
        name="rating/jigsaw",
        images=("gs",),
        target=Target(measurement="gs", kind="permutation", threshold=None, classes=4),
        jigsaw=jigsaw,
    )
    local = replace(settings_of(spec, local_steps=1), network=NETWORK.model_copy(update={"image_px": 48}))
    data = make_exams(8, image_px=48)
    assert train(local, data=data).update.isfinite().all()


class Shortcut(nn.Module):
    """Residuals and activations in place, as many published networks have them."""

    features = 4

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(i, 4, 3, padding=1, bias=False) for i in (3, 4))
        self.norm = nn.GroupNorm(2, 4)
        self.active = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.active(self.conv1(x))
        y = self.norm(self.conv2(x))
        y += x
        return F.relu(y, inplace=True).mean((2, 3))


class ChannelsLast(Shortcut):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("backbone", [Shortcut, ChannelsLast])
def test_residuals_in_place_and_channels_last_are_no_obstacle(backbone: type) -> None:
    local = own(settings_of(), backbone)
    ours, theirs = (clipped(of(local, start(local)), 0.1) for of in (shipped_gradients, plain_gradients))
    assert relative(ours, theirs) < 1e-5


class Norm(nn.Module):
    """A backbone with one norm or other layer, to be refused."""

    features = 4
    layer: Callable[[], nn.Module] = staticmethod(nn.Identity)

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.conv, self.one = nn.Conv2d(3, 4, 3), type(self).layer()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.one(self.conv(x))
        return features.mean((2, 3))


class Batch(Norm):
    layer = staticmethod(lambda: nn.BatchNorm2d(4))


class BatchWithoutWeights(Norm):
    layer = staticmethod(lambda: nn.BatchNorm2d(4, affine=False))


class BatchWithoutStatistics(Norm):
    layer = staticmethod(lambda: nn.BatchNorm2d(4, track_running_stats=False))


class TrackingInstances(Norm):
    layer = staticmethod(lambda: nn.InstanceNorm2d(4, track_running_stats=True))


class Dropped(Norm):
    layer = staticmethod(lambda: nn.Dropout(0.5))


class Buffered(Norm):
    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        self.register_buffer("seen", torch.zeros(4))

    def reset_parameters(self) -> None:
        """What a backbone of one's own must have."""


class ChangedInPlace(Norm):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.mul_(2)
        features: Tensor = y.mean((2, 3))
        return features


class Coupled(Norm):
    """What a picture gives depends, a little, on what lies beside it."""

    def forward(self, x: Tensor) -> Tensor:
        features = super().forward(x)
        return features + 1e-6 * features.mean(0)


def test_where_a_network_couples_the_exams_of_a_pass_each_has_its_own() -> None:
    local = own(settings_of(), Coupled)
    weights = torch.linspace(-1, 1, build.layout(local.spec, local.network).size)
    assert batched(local, weights).exams_a_pass == 1
    ours, theirs = (clipped(of(local, weights), 0.1) for of in (shipped_gradients, plain_gradients))
    assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Batch, "BatchNorm2d at backbone.one"),
        (BatchWithoutWeights, "BatchNorm2d"),
        (BatchWithoutStatistics, "BatchNorm2d"),
        (TrackingInstances, "InstanceNorm2d"),
        (Dropped, "dropout"),
        (Buffered, "buffers"),
        (ChangedInPlace, "in place"),
    ],
)
def test_networks_that_cannot_be_private_are_refused(backbone: type, message: str) -> None:
    local = own(settings_of(), backbone)
    weights = torch.linspace(-1, 1, build.layout(local.spec, local.network).size)
    with pytest.raises(ConfigurationError, match=message):
        train(local, weights=weights, entropy_of=_never)


def test_frozen_batch_norms_are_refused() -> None:
    spec = NetworkSpec(
        name="rating/fold0/hypertrophy/gt0/a",
        images=("gs", "doppler"),
        target=Target(measurement="hypertrophy"),
        pieces=tuple(Piece(part=f"backbones.{i}", network=None, frozen=True) for i in range(2)),
    )
    local = own(settings_of(spec), Batch)
    frozen = {
        piece.part: torch.ones(build.part_layout(spec, local.network, piece.part).size)
        for piece in spec.pieces
    }
    with pytest.raises(ConfigurationError, match=r"BatchNorm2d at backbones\.0"):
        train(replace(local, frozen=frozen), entropy_of=_never)


def _never() -> bytes:
    raise AssertionError("drawn")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": "balanced"}, "accounting"),
        ({"sampling": "shuffled"}, "accounting"),
    ],
)
def test_resampling_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        train(settings_of(**change), entropy_of=_never)


@pytest.mark.parametrize(("images", "classes"), [(0, 4), (IMAGES, 3)])
def test_a_cap_and_weights_that_cannot_be_are_refused(images: int, classes: int) -> None:
    local = settings_of()
    with pytest.raises(ConfigurationError, match="class weights"):
        PrivateTraining(
            start(local),
            DATA,
            local,
            STEP,
            images=images,
            class_weights=torch.ones(classes),
            server_round=1,
            seed=5,
        )
