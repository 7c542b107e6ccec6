"""Networks that train at once end where each would by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from common.networks import build
from common.networks.spec import NetworkSpec, Piece
from common.networks.stacking import UnstackableError
from common.sections.networks import NetworkSettings
from common.training import inputs, together
from common.training.data import ExamTensors
from common.training.inputs import Drawn
from common.training.together import Task, stacks, train_networks
from tests.common.training.test_resident import JIGSAW
from tests.exam_tensors import FUSION, NETWORK, SINGLE, local_settings, make_exams

DATA = make_exams()
SPECS = {"two images": FUSION, "one image": SINGLE, "jigsaw": JIGSAW}


def tasks(spec: NetworkSpec, count: int = 3, *, backbone: str = "small", **training: object) -> list[Task]:
    """Networks that differ in weights, fold and seed."""
    settings = replace(
        local_settings(spec, **training), network=NETWORK.model_copy(update={"backbone": backbone})
    )
    return [
        Task(
            weights=build.initial_weights(spec, settings.network, seed=number),
            optimiser={},
            data=DATA,
            settings=replace(settings, spec=spec.model_copy(update={"fold": number % 3})),
            server_round=2,
            seed=number,
        )
        for number in range(count)
    ]


def assert_as_alone(given: Sequence[Task], *, atol: float = 2e-6) -> None:
    found = together._stacked(given)
    for task, (update, state) in zip(given, found, strict=True):
        expected, kept = task.alone()
        assert update.num_examples == expected.num_examples
        assert update.loss == pytest.approx(expected.loss, rel=1e-4)
        torch.testing.assert_close(update.update, expected.update, rtol=1e-3, atol=atol)
        assert set(state) == set(kept)
        for name, values in kept.items():
            torch.testing.assert_close(state[name], values, rtol=2e-3, atol=atol)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", SPECS)
def test_at_once_is_one_by_one(kind: str, optimiser: str) -> None:
    assert_as_alone(tasks(SPECS[kind], optimiser=optimiser, local_steps=2), atol=5e-6)


def test_each_has_statistics_of_its_own_batch() -> None:
    given = tasks(SINGLE, 2, backbone="resnet18", optimiser="sgd", local_steps=1)
    parameters = build.layout(SINGLE, given[0].settings.network).trained_size
    found = [update.update[parameters:] for update, _ in together._stacked(given)]
    for task, statistics in zip(given, found, strict=True):
        torch.testing.assert_close(statistics, task.alone()[0].update[parameters:], rtol=1e-2, atol=1e-3)
    assert (found[0] - found[1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", SPECS)
def test_draws_are_those_of_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Drawn]] = []
    real = inputs.applied

    def note(data: ExamTensors, exams: Tensor, classes: Tensor, settings: object, drawn: Drawn) -> object:
        seen.append((exams, drawn))
        return real(data, exams, classes, settings, drawn)  # type: ignore[arg-type]

    monkeypatch.setattr(inputs, "applied", note)
    monkeypatch.setattr(together, "applied", note)
    given = tasks(SPECS[kind], 2)
    together._stacked(given)
    at_once, seen = seen, []
    for task in given:
        task.alone()
    steps = len(at_once)
    for step, (exams, drawn) in enumerate(at_once):
        each = [seen[step], seen[steps + step]]
        assert torch.equal(exams, torch.cat([one for one, _ in each]))
        expected = Drawn.together([one for _, one in each])
        for name in ("changes", "puzzles", "offsets"):
            mine, theirs = getattr(drawn, name), getattr(expected, name)
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.equal(mine, theirs)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_optimisers_go_on(optimiser: str) -> None:
    first = tasks(SINGLE, 2, optimiser=optimiser, local_steps=2)
    again = [replace(task, optimiser=task.alone()[1], server_round=3) for task in first]
    assert_as_alone(again, atol=5e-6)


def test_unequal_optimisers_train_by_themselves() -> None:
    first, second, third = tasks(SINGLE)
    ahead = replace(second, optimiser=second.alone()[1])
    done = train_networks([first, ahead, third])
    assert torch.equal(done[1][0].update, ahead.alone()[0].update)
    for task, (update, _) in ((first, done[0]), (third, done[2])):
        torch.testing.assert_close(update.update, task.alone()[0].update, rtol=1e-3, atol=5e-5)


def test_who_lacks_a_class_trains_nothing_and_holds_up_nobody() -> None:
    given = tasks(SINGLE)
    one_class = replace(DATA, grades={**DATA.grades, "vascularity": torch.zeros_like(DATA.fold)})
    given[1] = replace(given[1], data=one_class)
    done = train_networks(given)
    assert done[1][0].num_examples == 0
    assert not done[1][0].update.any()
    for place in (0, 2):
        assert done[place][0].num_examples > 0
        torch.testing.assert_close(
            done[place][0].update, given[place].alone()[0].update, rtol=1e-3, atol=5e-5
        )


def test_frozen_parts_stay_each_networks_own() -> None:
    pieces = tuple(Piece(part=f"backbones.{i}", network=None, frozen=True) for i in range(2))
    spec = FUSION.model_copy(update={"pieces": pieces})
    given = []
    for number, task in enumerate(tasks(spec, optimiser="sgd")):
        generator = torch.Generator().manual_seed(number)
        frozen = {
            piece.part: 0.3
            * torch.randn(build.part_layout(spec, NETWORK, piece.part).size, generator=generator)
            for piece in pieces
        }
        given.append(replace(task, settings=replace(task.settings, frozen=frozen)))
    assert_as_alone(given)
    updates = [update.update for update, _ in together._stacked(given)]
    assert not torch.allclose(updates[0], updates[1])


@pytest.mark.parametrize("error", [UnstackableError("no rule"), torch.OutOfMemoryError("too little")])
def test_what_cannot_be_stacked_trains_one_by_one(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise error

    given = tasks(SINGLE, 2)
    monkeypatch.setattr(together, "logits", fail)
    for task, (update, _) in zip(given, train_networks(given), strict=True):
        assert torch.equal(update.update, task.alone()[0].update)


def test_who_trains_together() -> None:
    alike = [task.settings for task in tasks(SINGLE)]
    other = local_settings(FUSION)
    assert stacks([alike[0], other, *alike[1:]], stacked=True) == [[0, 2, 3], [1]]
    assert stacks(alike, stacked=False) == [[0], [1], [2]]


def test_no_more_than_fill_a_card_train_together() -> None:
    one = tasks(SINGLE, 1)[0].settings
    large = replace(
        one,
        network=NetworkSettings(backbone="resnet18", image_px=224),
        training=one.training.model_copy(update={"batch_size": 32}),
    )
    assert stacks([large] * 5, stacked=True) == [[0, 1], [2, 3], [4]]
    assert stacks([one] * 5, stacked=True) == [[0, 1, 2, 3, 4]]


def test_who_trains_by_itself() -> None:
    settings = tasks(SINGLE, 1)[0].settings
    whole = replace(settings, training=settings.training.model_copy(update={"sampling": "all"}))
    own = replace(settings, network=NETWORK.model_copy(update={"backbone": "module:Mine"}))
    for one in (whole, own):
        assert stacks([one, one], stacked=True) == [[0], [1]]
