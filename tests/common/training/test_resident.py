"""Pictures on a device and what travels to it; "meta" computes nothing, but all that goes there is seen."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.imaging import augment, jigsaw
from common.imaging.prepare import picture
from common.networks import build
from common.networks.backbones import CONTIGUOUS
from common.networks.spec import NetworkSpec, Target
from common.sections.methods import JigsawSettings
from common.sections.networks import NetworkSettings
from common.training import local, resident
from common.training.data import ExamTensors
from common.training.inputs import inputs
from common.training.local import train_network
from common.training.local_settings import LocalSettings
from tests.exam_tensors import FUSION, SINGLE, local_settings, make_exams

META = torch.device("meta")
CPU = torch.device("cpu")
JIGSAW = NetworkSpec(
    name="rating/jigsaw",
    images=("gs",),
    target=Target(measurement="gs", kind="permutation", classes=10),
    jigsaw=JigsawSettings(image_px=48, tile_px=12),
)


class Transfers(TorchDispatchMode):
    """Counts what goes from the host to another device, and the bytes of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        got = func(*args, **(kwargs or {}))
        given = next((value for value in args if isinstance(value, Tensor)), None)
        if isinstance(got, Tensor) and not got.is_cpu and (given is None or given.is_cpu):
            self.sizes.append(got.nbytes if given is not None else 0)
        return got


@pytest.fixture
def data() -> Iterator[ExamTensors]:
    yield make_exams()
    resident.let_go(META)


def sent(data: ExamTensors, settings: LocalSettings) -> list[int]:
    exams = torch.arange(8)
    seen = Transfers()
    with seen:
        inputs(data, exams, torch.zeros(8, dtype=torch.long), settings, torch.Generator().manual_seed(0))
    return seen.sizes


@pytest.mark.parametrize("spec", [FUSION, SINGLE])
def test_a_step_sends_its_exams_classes_and_all_draws_in_one_tensor_each(
    data: ExamTensors, spec: NetworkSpec
) -> None:
    settings = replace(local_settings(spec), device=META)
    there = resident.resident(data, spec.images, META)
    sent(there, settings)  # constants are made once
    changes = len(spec.images) * 8 * 8 * 4
    assert sorted(sent(there, settings)) == sorted([8 * 8, 8 * 8, changes])


def test_without_room_the_pictures_of_a_step_are_sent_too(
    data: ExamTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(local_settings(FUSION), device=META)
    each = data.images["gs"][:8].nbytes
    monkeypatch.setattr(resident, "_free_bytes", lambda device: 4 * data.images["gs"].nbytes)
    there = resident.resident(data, FUSION.images, META)
    assert [there.images[name].device for name in FUSION.images] == [
        META,
        CPU,
    ]  # doppler has twice the channels
    sent(there, settings)
    assert sorted(sent(there, settings)) == sorted([8 * 8, 8 * 8, 2 * 8 * 8 * 4, 2 * each])


def test_pictures_are_copied_once_and_let_go_for_good(data: ExamTensors) -> None:
    with Transfers() as seen:
        first = resident.resident(data, ("gs",), META)
        folds = replace(data, fold=data.fold + 1)  # other folds of the same pictures
        again = resident.resident(folds, ("gs",), META)
    assert len(seen.sizes) == 1
    assert again.images["gs"] is first.images["gs"]
    assert first.images["doppler"] is data.images["doppler"]  # nobody reads it
    assert resident.let_go(META)
    assert resident.resident(data, ("gs",), META).images["gs"] is data.images["gs"]
    assert not resident.let_go(META)


def test_a_copy_goes_with_what_it_is_a_copy_of() -> None:
    resident.resident(make_exams(), ("gs",), META)
    gc.collect()
    assert not resident.let_go(META)


def test_on_the_cpu_nothing_is_copied(data: ExamTensors) -> None:
    assert resident.resident(data, FUSION.images, CPU) is data


def as_written(
    data: ExamTensors,
    exams: Tensor,
    classes: Tensor,
    settings: LocalSettings,
    generator: torch.Generator | None,
) -> tuple[list[Tensor], Tensor]:
    """A batch, image after image: each is drawn when it is read."""
    ranges = settings.training.augmentation
    assert ranges is not None
    assert generator is not None
    pictures = []
    for name in settings.spec.images:
        stored = data.images[name].index_select(0, exams)
        parameters = augment.draw(
            len(exams),
            image=settings.images[name],
            settings=ranges,
            image_px=settings.network.image_px,
            stored_px=stored.shape[-1],
            generator=generator,
        )
        px = settings.network.image_px
        drawn = picture(stored, settings.images[name], image_px=px, parameters=parameters)
        pictures.append(drawn.contiguous() if settings.network.backbone in CONTIGUOUS else drawn)
    if settings.spec.jigsaw is None:
        return pictures, classes
    count = settings.spec.target.classes
    chosen = torch.randint(0, count, (len(exams),), generator=generator)
    offsets = jigsaw.draw_offsets(len(exams), settings.spec.jigsaw, generator)
    order = jigsaw.permutations(count)[chosen]
    return [jigsaw.tiles(pictures[0], settings.spec.jigsaw, offsets=offsets, order=order)], chosen


@pytest.mark.parametrize(
    ("spec", "backbone"),
    [(FUSION, "small"), (SINGLE, "small"), (JIGSAW, "small"), (SINGLE, "resnet18")],
)
def test_draws_in_one_tensor_change_no_bit(
    data: ExamTensors, spec: NetworkSpec, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NetworkSettings(backbone=backbone, image_px=32, width=4, hidden=16)
    settings = replace(local_settings(spec), network=network)
    weights = build.initial_weights(spec, network, seed=1)
    found, _ = train_network(weights, {}, data, settings, 1, 7)
    monkeypatch.setattr(local, "inputs", as_written)
    expected, _ = train_network(weights, {}, data, settings, 1, 7)
    assert torch.equal(found.update, expected.update)
    assert found.update.abs().max() > 0
