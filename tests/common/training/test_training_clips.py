"""Networks of moving pictures: what they read of a clip, and that all that is promised of networks holds of them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from common.ensemble.heatmaps import networks_above_zero
from common.ensemble.inference import Member, ensemble
from common.errors import ConfigurationError
from common.imaging import augment
from common.imaging.prepare import picture
from common.networks import build
from common.networks.layout import load
from common.networks.spec import NetworkSpec, Probe, Target
from common.privacy.mechanism.network_step import Exams, PatientGradients
from common.privacy.mechanism.network_training import check_network, patients_exams
from common.sections.networks import ImageSettings, NetworkSettings
from common.sections.training import AugmentationSettings
from common.training.data import ExamTensors
from common.training.flat_network import FlatNetwork
from common.training.inputs import inputs, labels, training_exams
from common.training.local import score, train_network
from common.training.local_settings import LocalSettings
from tests.exam_tensors import IMAGES, NETWORK, local_settings, make_exams

FRAMES = 5
CLIP = ImageSettings(kind="doppler", frames=FRAMES)
STILL = NetworkSpec(name="still", images=("doppler",), target=Target(measurement="vascularity"), fold=0)
MOVING = STILL.model_copy(update={"name": "moving", "images": ("clip",), "clips": ("clip",)})
FUSED = MOVING.model_copy(update={"name": "fused", "images": ("gs", "clip")})
SPECS = [MOVING, FUSED, MOVING.model_copy(update={"probe": Probe(neck=6)})]
PLAIN: dict[str, Any] = {"augmentation": None, "schedule": "constant", "weight_decay": 0.0}


def make_clips(count: int = 48, *, seed: int = 0) -> ExamTensors:
    """Exams whose grade shows in one frame alone, which one differs from exam to exam; the still has another."""
    data = make_exams(count, seed=seed)
    frames = torch.zeros((count, FRAMES, *data.images["doppler"].shape[1:]), dtype=torch.uint8)
    noise = torch.randint(0, 100, frames.shape, generator=torch.Generator().manual_seed(seed + 1))
    frames[:, :, 0] = noise[:, :, 0].to(torch.uint8)
    shows = torch.arange(count) * 7 % FRAMES
    frames[torch.arange(count), shows] = data.images["doppler"]
    return replace(data, images={**data.images, "clip": frames})


DATA = make_clips()


def moving_settings(spec: NetworkSpec = MOVING, **training: object) -> LocalSettings:
    return replace(local_settings(spec, **training), images={**IMAGES, "clip": CLIP})


def built(spec: NetworkSpec, seed: int = 1, settings: NetworkSettings = NETWORK) -> torch.nn.Module:
    network = build.network(spec, settings)
    load(network, build.initial_weights(spec, settings, seed=seed))
    return network.eval()


def read(spec: NetworkSpec, data: ExamTensors, exams: Tensor) -> list[Tensor]:
    return inputs(data, exams, torch.zeros(len(exams), dtype=torch.long), moving_settings(spec), None)[0]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_order_of_frames_changes_nothing(spec: NetworkSpec) -> None:
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = replace(DATA, images={**DATA.images, "clip": DATA.images["clip"][:, order]})
    network, exams = built(spec), torch.arange(6)
    with torch.no_grad():
        torch.testing.assert_close(
            network(read(spec, DATA, exams)), network(read(spec, shuffled, exams)), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("backbone", ["small", "resnet18", "mobilenet_v2"])
def test_of_equal_frames_mean_and_maximum_are_the_features_of_one(backbone: str) -> None:
    settings = NETWORK.model_copy(update={"backbone": backbone})
    network = built(MOVING, settings=settings)
    (one,) = read(MOVING, DATA, torch.arange(3))
    equal = one[:, :1].expand_as(one)
    with torch.no_grad():
        expected = network.get_submodule("backbone")(one[:, 0])
        twice = torch.cat([expected, expected], dim=1)
        torch.testing.assert_close(
            network([equal]), network.get_submodule("head")(twice), rtol=1e-4, atol=1e-5
        )


def test_a_clip_among_others_is_read_as_it_is_alone() -> None:
    network = built(FUSED)
    with torch.no_grad():
        together = network(read(FUSED, DATA, torch.arange(8)))
        alone = torch.cat([network(read(FUSED, DATA, torch.tensor([i]))) for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_clip_is_read_frame_by_frame_as_stills_are() -> None:
    stored = DATA.images["clip"][:4]
    whole = picture(stored, CLIP, image_px=32)
    assert whole.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    for number in range(FRAMES):
        still = picture(stored[:, number], CLIP, image_px=32)
        assert torch.equal(whole[:, number], still)


def test_a_clip_and_a_still_of_one_start_begin_with_the_same_backbone() -> None:
    for backbone in ("small", "resnet18"):
        settings = NETWORK.model_copy(update={"backbone": backbone})
        assert build.part_layout(STILL, settings, "backbone") == build.part_layout(
            MOVING, settings, "backbone"
        )
        still, moving = (
            build.part(spec, settings, build.initial_weights(spec, settings, seed=3), "backbone")
            for spec in (STILL, MOVING)
        )
        assert torch.equal(still, moving)
        heads = [dict(build.layout(spec, settings).entries)["head.weight"][1] for spec in (STILL, MOVING)]
        assert heads[1] == 2 * heads[0]


def test_stills_keep_the_identity_that_they_had_and_clips_have_one_of_their_own() -> None:
    # The figure is of version 0.2, before there were clips: seeds of all runs before hang on it.
    assert STILL.identity == STILL.model_copy(update={"name": "another", "start": ""}).identity
    assert STILL.identity == "6a63e4b9a79d0e7f5248566f94d3a8086313bdc10d526d71dc7e69c57cef1a16"
    assert MOVING.identity != MOVING.model_copy(update={"clips": ()}).identity
    assert MOVING.shape != MOVING.model_copy(update={"clips": ()}).shape


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    equal = DATA.images["clip"][:6, 1:2].expand(-1, FRAMES, -1, -1, -1).contiguous()
    parameters = augment.draw(
        6, image=CLIP, settings=AugmentationSettings(rotation_degrees=40.0), image_px=32, stored_px=equal.shape[-1],
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    changed = picture(equal, CLIP, image_px=32, parameters=parameters)
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    still = picture(equal[:, 0], CLIP, image_px=32, parameters=parameters)
    torch.testing.assert_close(changed[:, 0], still)
    assert not torch.equal(changed[0, 0], changed[1, 0])


def test_brightness_between_frames_stays_what_it_was() -> None:
    """A frame that is brighter than the others is so after any change: contrast is about the clip's mean."""
    frames = torch.tensor([60.0, 120.0]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 38, 38).to(torch.uint8).clone()
    frames[:, :, 1] = 0
    parameters = augment.AugmentParameters(
        theta=torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]]),
        brightness=torch.ones(1),
        contrast=torch.tensor([0.8]),
    )
    relit = augment.relight(frames[:, :, :1].float() / 255, parameters)
    assert relit.mean((2, 3, 4))[0].tolist() == pytest.approx([(90 - 24) / 255, (90 + 24) / 255])


def test_a_network_learns_what_one_frame_of_a_clip_shows() -> None:
    data = make_clips(200, seed=4)
    local = moving_settings(local_steps=100, batch_size=32, learning_rate=5e-3, **PLAIN)
    weights = build.initial_weights(MOVING, NETWORK, seed=1)
    update, _ = train_network(weights, {}, data, local, 1, 0)
    fresh = make_clips(96, seed=5)
    exams = torch.arange(96)
    found = score(weights + update.update, fresh, exams, local)
    assert ((found[:, 1] > 0.5) == (labels(fresh, MOVING) == 1)).float().mean() > 0.95
    again, _ = train_network(weights, {}, data, local, 1, 0)
    assert torch.equal(again.update, update.update)


def test_a_full_batch_step_of_two_sites_is_that_of_all_their_clips() -> None:
    def step(data: ExamTensors) -> tuple[Tensor, int]:
        local = moving_settings(
            local_steps=1, batch_size=1000, sampling="all", optimiser="sgd", learning_rate=0.1, **PLAIN
        )
        weights = build.initial_weights(MOVING, NETWORK, seed=1)
        done = train_network(weights, {}, data, local, 1, 0)[0]
        return done.update, done.num_examples

    sites = make_clips(32, seed=2), make_clips(48, seed=3)
    pooled = ExamTensors(
        images={name: torch.cat([site.images[name] for site in sites]) for name in sites[0].images},
        grades={name: torch.cat([site.grades[name] for site in sites]) for name in sites[0].grades},
        fold=torch.cat([site.fold for site in sites]),
        patient=torch.cat([sites[0].patient, sites[1].patient + 1000]),
    )
    (one, n), (other, m), (both, _) = map(step, (*sites, pooled))
    torch.testing.assert_close((n * one + m * other) / (n + m), both, rtol=1e-3, atol=1e-6)


def test_networks_of_clips_answer_alike_in_a_service() -> None:
    members = [Member(name=str(i), images=("clip",), network=built(MOVING, seed=i)) for i in range(3)]
    pictures = dict(zip(MOVING.images, read(MOVING, DATA, torch.arange(9)), strict=True))
    with torch.no_grad():
        expected = [member.network([pictures["clip"]]) for member in members]
    answers = ensemble(members).logits(pictures)
    for i, logits in enumerate(expected):
        torch.testing.assert_close(answers[str(i)], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [MOVING, FUSED], ids=["moving", "fused"])
def test_a_patients_gradient_of_clips_is_that_of_automatic_differentiation(spec: NetworkSpec) -> None:
    local = moving_settings(spec, sampling="all", **PLAIN)
    check_network(local)
    network = FlatNetwork(build.network(spec, NETWORK), local.device)
    network.load(build.initial_weights(spec, NETWORK, seed=1))
    exams = patients_exams(DATA, local, images=2)[0]
    classes = labels(DATA, spec)[exams]
    pictures, _ = inputs(DATA, exams, classes, local, None)
    plain = built(spec)
    loss = torch.nn.functional.cross_entropy(plain(pictures), classes)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(plain.parameters()))])
    gradients = PatientGradients(network, example=read(spec, DATA, torch.arange(16) % len(DATA)))

    def some(which: slice) -> Exams:
        return [part[which] for part in pictures], classes[which]

    ((found,),) = gradients.of_patients(some, [len(exams)], torch.ones(2))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_there_are_no_heatmaps_of_clips() -> None:
    with pytest.raises(ConfigurationError, match="no heatmaps of moving pictures"):
        networks_above_zero([MOVING], measurements=["vascularity"])
    assert networks_above_zero([MOVING, STILL], measurements=["vascularity"]) == [STILL]


def test_training_exams_are_those_of_stills() -> None:
    assert torch.equal(training_exams(DATA, MOVING), training_exams(DATA, STILL))
