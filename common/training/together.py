"""Local training of several networks of one shape at once: each layer one operation for all of them.

A small network keeps a card waiting for its next operation. Here several train side by side
(:mod:`common.networks.stacking`), each on its own exams, batches, augmentation, statistics of norms and optimiser's
state, drawn and kept exactly as :func:`common.training.local.train_network` would. Their results differ from those of
one by one by rounding.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from common.extensions import is_object_path
from common.networks.layout import Layout, layout_of
from common.networks.stacking import UnstackableError, logits, side_by_side, stacked_network
from common.training import answers
from common.training.data import ExamTensors
from common.training.flat_network import flat_network
from common.training.inputs import Drawn, applied, draw, wanted
from common.training.local import (
    LocalUpdate,
    autocast,
    fresh_optimiser,
    material,
    resume,
    train_network,
    untrained,
)
from common.training.local_settings import LocalSettings
from common.training.memory import ran_out
from common.training.resident import resident
from common.training.sampling import batches
from common.training.schedule import learning_rate

PIXELS = 2**22
"""Most pixels of one image that a step reads for all networks: those of a batch of 83 pictures of 224 px. A network
whose own batch has as many fills a card by itself, and a stack's activations take no more than such a one's."""

Kept = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One network's round: the arguments of :func:`common.training.local.train_network`."""

    weights: Float32[Tensor, " size"]
    optimiser: Kept
    data: ExamTensors
    settings: LocalSettings
    server_round: int
    seed: int

    def alone(self) -> tuple[LocalUpdate, Kept]:
        """What it gives by itself."""
        return train_network(
            self.weights, self.optimiser, self.data, self.settings, self.server_round, self.seed
        )


def stacks(networks: Sequence[LocalSettings], *, stacked: bool) -> list[list[int]]:
    """Which networks may train together, by their places in the sequence; most by themselves.

    Args:
        networks: of one request.
        stacked: whether any may. It is for cards, where starting an operation costs more than a small network's share
            of it; on a CPU it took longer wherever it was measured.
    """
    alike: dict[Hashable, list[int]] = {}
    for place, settings in enumerate(networks):
        key = _likeness(settings) if stacked else None
        alike.setdefault(place if key is None else key, []).append(place)
    return [
        places[first : first + most]
        for places in alike.values()
        for most in (_most(networks[places[0]]),)
        for first in range(0, len(places), most)
    ]


def _likeness(settings: LocalSettings) -> Hashable | None:
    """Equal for networks that may train together; ``None``: by itself.

    Batches of all exams differ in size, clips have an axis more, and what somebody's own backbone does is not known.
    """
    spec, training = settings.spec, settings.training
    backbone = spec.backbone or settings.network.backbone
    if training.sampling == "all" or spec.clips or is_object_path(backbone):
        return None
    kinds = tuple(settings.images[name] for name in spec.images)
    target = (spec.target.kind, spec.target.classes)
    return (
        *(spec.shape, spec.images, kinds, target),
        *(settings.network, training, settings.rounds, settings.device),
    )


def _most(settings: LocalSettings) -> int:
    """Networks that may train together."""
    puzzle = settings.spec.jigsaw
    pixels = settings.network.image_px**2 if puzzle is None else 9 * puzzle.tile_px**2
    return max(1, PIXELS // (settings.training.batch_size * pixels))


def train_networks(tasks: Sequence[Task]) -> list[tuple[LocalUpdate, Kept]]:
    """Train networks that :func:`stacks` put together; see :func:`common.training.local.train_network`.

    Those whose optimisers have taken unequal numbers of steps, and all where the architecture has no rule or the
    device no memory for it, train one by one.
    """
    done: dict[int, tuple[LocalUpdate, Kept]] = {}
    alike: dict[Hashable, list[int]] = {}
    for place, task in enumerate(tasks):
        if len(material(task.data, task.settings.spec)[0]):
            steps = {name: float(values) for name, values in task.optimiser.items() if not values.ndim}
            alike.setdefault((tuple(sorted(task.optimiser)), *sorted(steps.items())), []).append(place)
        else:
            done[place] = untrained(task.weights), task.optimiser
    for places in alike.values():
        done |= dict(zip(places, _trained([tasks[place] for place in places]), strict=True))
    return [done[place] for place in range(len(tasks))]


def _trained(tasks: Sequence[Task]) -> list[tuple[LocalUpdate, Kept]]:
    if len(tasks) > 1:
        try:
            return _stacked(tasks)
        except RuntimeError as error:
            if not isinstance(error, UnstackableError) and not ran_out(error):
                raise
            # what it held is let go before others train
    return [task.alone() for task in tasks]


def _stacked(tasks: Sequence[Task]) -> list[tuple[LocalUpdate, Kept]]:
    stack = _Stack(tasks)
    training, count = tasks[0].settings.training, len(tasks)
    lessons = [_Lesson(task) for task in tasks]
    optimiser = fresh_optimiser(stack.trained, training)
    states = [task.optimiser for task in tasks]
    resume(optimiser, stack.trained, stack.woven(states))
    total = torch.zeros(count, device=stack.flat.device)
    done_before = (tasks[0].server_round - 1) * training.local_steps
    all_steps = tasks[0].settings.rounds * training.local_steps
    for step in range(training.local_steps):
        rate = learning_rate(training, step=done_before + step, total=all_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        total += stack.backward(lessons)
        optimiser.step()
    losses = (total / training.local_steps).tolist()
    after = stack.apart(optimiser.state[stack.trained])
    weights = stack.rows(stack.flat, stack.layout)
    return [
        (
            LocalUpdate(update=row - task.weights, num_examples=len(lesson.exams), loss=loss),
            state,
        )
        for task, lesson, row, loss, state in zip(tasks, lessons, weights, losses, after, strict=True)
    ]


class _Lesson:
    """What one network trains on, in the order in which its generator draws it."""

    def __init__(self, task: Task) -> None:
        settings = task.settings
        self.settings = settings
        self.data = resident(task.data, settings.spec.images, settings.device)
        self.exams, strata = material(task.data, settings.spec)
        self._wanted = wanted(task.data, settings.spec)[self.exams]
        self._generator = torch.Generator().manual_seed(task.seed)
        stream = batches(strata, settings.training, self._generator)
        self._batches = islice(stream, settings.training.local_steps)

    def next(self) -> tuple[Int[Tensor, " batch"], Tensor, Drawn]:
        """The next batch's exams, what is wanted of them, and what is drawn for it."""
        batch = next(self._batches)
        exams = self.exams[batch]
        return exams, self._wanted[batch], draw(self.data, exams, self.settings, self._generator)


class _Stack:
    """Networks side by side, on one flat vector: each layer's weights of all networks, layer after layer.

    Attributes:
        layout: of one network.
        flat: the weights of all.
        trained: the leading part of ``flat`` that holds parameters.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        settings = tasks[0].settings
        one = flat_network(settings.spec, settings.network, settings.device)
        rows, frozen = [], []
        for task in tasks:
            one.load(task.weights, task.settings.frozen)  # checks them
            rows.append(one.flat.clone())
            frozen.append({part: values.clone() for part, values in one.frozen.items()})
        self.count, self.layout = len(tasks), one.layout
        self.flat: Float32[Tensor, " all"] = _woven(rows, self.layout)
        wide = _wide(self.layout, self.count)
        self.trained = nn.Parameter(self.flat[: wide.trained_size])
        self._gradient = torch.zeros_like(self.flat)
        self.trained.grad = self._gradient[: wide.trained_size]
        # .data: norms write their statistics during a pass, which must not count as a change of the weights
        pieces = {name: view.data for name, view in wide.pieces(self.flat)}
        for part in one.frozen:
            inner = layout_of(one.module.get_submodule(part))
            values = _woven([each[part] for each in frozen], inner)
            pieces |= {f"{part}.{n}": view for n, view in _wide(inner, self.count).pieces(values)}
        one.training_mode()
        self._module = stacked_network(one.module, pieces, self.count)
        gradients = dict(list(wide.pieces(self._gradient))[: wide.parameters])
        with torch._C.DisableTorchFunctionSubclass():
            for name, weight in self._module.named_parameters():
                if name in gradients:
                    weight.requires_grad_()
                    weight.grad = gradients[name].view(weight.shape)

    def backward(self, lessons: Sequence[_Lesson]) -> Float32[Tensor, " networks"]:
        """Gradients of the next batch's losses, which are given back."""
        self._gradient.zero_()
        each = [lesson.next() for lesson in lessons]
        exams, wished = torch.cat([one[0] for one in each]), torch.cat([one[1] for one in each])
        first = lessons[0]
        read, right = applied(
            first.data, exams, wished, first.settings, Drawn.together([one[2] for one in each])
        )
        with autocast(first.settings.device):
            outputs = logits(self._module, [side_by_side(kind, self.count) for kind in read], self.count)
            losses = torch.stack(
                [
                    answers.loss(own, classes, lesson.settings.spec.target)
                    for own, classes, lesson in zip(outputs, right.chunk(self.count), lessons, strict=True)
                ]
            )
        losses.sum().backward()
        return losses.detach()

    def woven(self, states: Sequence[Kept]) -> Kept:
        """What the optimisers of all keep, as one optimiser's."""
        layout = _trained_part(self.layout)
        return {
            name: _woven([state[name] for state in states], layout) if values.ndim else values
            for name, values in states[0].items()
        }

    def apart(self, state: Kept) -> list[Kept]:
        """The inverse of :meth:`woven`, on the CPU."""
        layout = _trained_part(self.layout)
        each = {
            name: self.rows(values, layout) if values.ndim else [values.cpu().clone()] * self.count
            for name, values in state.items()
        }
        return [{name: rows[place] for name, rows in each.items()} for place in range(self.count)]

    def rows(self, flat: Float32[Tensor, " all"], layout: Layout) -> list[Float32[Tensor, " size"]]:
        """Each network's own vector, on the CPU."""
        pieces = [view.flatten(1) for _, view in _wide(layout, self.count).pieces(flat)]
        return [row.clone() for row in torch.cat(pieces, dim=1).cpu()]


def _trained_part(layout: Layout) -> Layout:
    return replace(layout, entries=layout.entries[: layout.parameters])


def _wide(layout: Layout, count: int) -> Layout:
    """Of several networks' vector: every piece has all of them."""
    return replace(layout, entries=tuple((name, (count, *shape)) for name, shape in layout.entries))


def _woven(rows: Sequence[Float32[Tensor, " size"]], layout: Layout) -> Float32[Tensor, " all"]:
    """The networks' vectors as one, piece by piece.

    Raises:
        UpdateError: if a vector is of another length.
    """
    each = [[piece.flatten() for _, piece in layout.pieces(row)] for row in rows]
    return torch.cat([piece for pieces in zip(*each, strict=True) for piece in pieces])
