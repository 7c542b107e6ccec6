"""The gradient of every exam of a pass, layer by layer: from what a layer read and what came back to it.

One ordinary forward pass, and one backward pass to the answers of layers; a layer's weights then have of each exam
the sum, over its pictures and their places, of products of the two (Goodfellow 2015, arXiv 1510.01799; of
convolutions Rochette et al. 2019, arXiv 1912.06015). No sum ever goes over two exams.

==============================================  ================================================================
layer                                           from what
==============================================  ================================================================
convolutions, of any dimensions and groups      products of errors and windows of the input
``nn.Linear``                                   products of errors and inputs
``nn.GroupNorm``                                errors times the normalised input, summed over places
any other module with parameters of its own     :func:`torch.func.vmap` of its gradient
==============================================  ================================================================

Rows of a layer's input that are not exams (frames of a clip, tiles of a puzzle) belong to the exams in equal shares,
in their order. Of a network that has them otherwise this is wrong: whoever asks must try it first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from common.errors import ConfigurationError
from common.networks.layout import Layout

WINDOW_NUMBERS = 2**20
"""Of convolutions' windows that are written out at once, at least one exam's: 4 MB."""

Pictures = Sequence[Float[Tensor, "n ..."]]
OfParameters: TypeAlias = Mapping[str, Tensor]
"""A layer's parameter -> its gradients, one per exam: ``(exams, *shape)``."""


class ExamGradients:
    """A network whose gradients are given exam by exam.

    Args:
        module: the network.
        layout: which of its parameters train, and where they lie.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        self._module, self.size = module, layout.trained_size
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        places, start = {}, 0
        for name, shape in layout.entries[: layout.parameters]:
            places[name] = start, shape
            start += math.prod(shape)
        self._places: dict[nn.Module, dict[str, tuple[int, tuple[int, ...]]]] = {}
        for layer in module.modules():
            own = [(name, names[id(p)]) for name, p in layer.named_parameters(recurse=False)]
            trained = {name: places[full] for name, full in own if full in places}
            if trained:
                self._places[layer] = trained

    def add_to(
        self, rows: Float[Tensor, "exams size"], pictures: Pictures, loss_of: Callable[[Tensor], Tensor]
    ) -> None:
        """Add each exam's gradient to its row.

        Args:
            rows: one per exam.
            pictures: of as many exams.
            loss_of: answers -> the sum of a loss of each exam, of which none depends on another's answers.

        Raises:
            ConfigurationError: for layers whose answer or whose rows are not of exams.
        """
        calls: list[_Call] = []

        def record(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], answer: object) -> None:
            if not isinstance(answer, Tensor):
                raise ConfigurationError(
                    f"Expected layers that answer with one tensor, {type(layer).__name__} does not"
                )
            calls.append(_Call(layer=layer, given=given, named=named, answer=answer))

        hooks = [layer.register_forward_hook(record, with_kwargs=True) for layer in self._places]
        try:
            with _OutOfPlace():
                loss = loss_of(self._module(pictures))
        finally:
            for hook in hooks:
                hook.remove()
        errors = list(torch.autograd.grad(loss, [call.answer for call in calls], allow_unused=True))
        with torch.no_grad():
            while calls:  # what a layer has read is let go with it
                call, error = calls.pop(), errors.pop()
                if error is not None:
                    self._add(rows, call, error)

    def _add(self, rows: Tensor, call: _Call, error: Tensor) -> None:
        if len(error) % len(rows):
            raise ConfigurationError(
                f"Expected of each layer as many rows of every one of {len(rows)} exams, got {len(error)}"
            )
        found = _RULES.get(type(call.layer), _any_layer)(call, error, len(rows))
        for name, (start, shape) in self._places[call.layer].items():
            part = rows[:, start : start + math.prod(shape)]
            part.unflatten(1, (*shape, 1)).squeeze(-1).add_(found[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A layer that was asked: by position, by name, and what it said."""

    layer: nn.Module
    given: tuple[Any, ...]
    named: Mapping[str, Any]
    answer: Tensor


def _linear(call: _Call, error: Tensor, exams: int) -> OfParameters:
    read = call.given[0].reshape(exams, -1, call.given[0].shape[-1])
    error = error.reshape(exams, -1, error.shape[-1])
    return {"weight": torch.bmm(error.mT, read), "bias": error.sum(1)}


def _convolution(call: _Call, error: Tensor, exams: int) -> OfParameters:
    layer: Any = call.layer
    error = error.movedim(1, -1).reshape(exams, -1, layer.groups, layer.out_channels // layer.groups)
    numbers = error.shape[1] * layer.in_channels * math.prod(layer.kernel_size[1:])
    some = max(1, WINDOW_NUMBERS // numbers)
    reads = call.given[0].unflatten(0, (exams, -1)).split(some)
    parts = [_products(layer, e, r.flatten(0, 1)) for e, r in zip(error.split(some), reads, strict=True)]
    return {"weight": torch.cat(parts) if len(parts) > 1 else parts[0], "bias": error.sum(1).flatten(1)}


def _products(layer: Any, error: Tensor, read: Tensor) -> Tensor:
    """Of some exams: errors ``(exams, places, groups, out)`` times what the kernel saw of ``read`` at those places.

    Windows are written out along all axes but the first, where each of the kernel's lines is a shifted view of them.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = F.pad(read, layer._reversed_padding_repeated_twice, mode=mode).movedim(1, -1)
    (lines, *sizes), (step, *strides), (apart, *dilations) = layer.kernel_size, layer.stride, layer.dilation
    for axis, (size, stride, dilation) in enumerate(zip(sizes, strides, dilations, strict=True), start=2):
        windows = windows.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    windows = windows.movedim(2 + len(sizes), -1)  # rows, lines, other places, other kernel, channels
    exams, places, groups, out = error.shape
    height = places * exams // (len(read) * math.prod(windows.shape[2 : 2 + len(sizes)]))
    every = {
        first: windows[:, first::step].contiguous() for first in {i * apart % step for i in range(lines)}
    }
    products = []
    for line in range(lines):
        above, first = divmod(line * apart, step)
        seen = every[first][:, above : above + height]
        seen = seen.reshape(exams, places, -1, groups, layer.in_channels // groups)
        products.append(torch.einsum("epgo,epkgc->egokc", error, seen))
    weights = torch.stack(products, dim=3)
    return weights.reshape(exams, groups * out, *layer.kernel_size, -1).movedim(-1, 2)


def _group_norm(call: _Call, error: Tensor, exams: int) -> OfParameters:
    layer: Any = call.layer
    normal = F.group_norm(call.given[0], layer.num_groups, eps=layer.eps)
    products = (error * normal, error)
    weight, bias = (p.flatten(2).sum(2).unflatten(0, (exams, -1)).sum(1) for p in products)
    return {"weight": weight, "bias": bias}


def _any_layer(call: _Call, error: Tensor, exams: int) -> OfParameters:
    own = dict(call.layer.named_parameters(recurse=False))
    batched = [isinstance(one, Tensor) for one in call.given]
    given = [t.unflatten(0, (exams, -1)) if is_ else t for t, is_ in zip(call.given, batched, strict=True)]

    def product(parameters: OfParameters, error: Tensor, *given: object) -> Tensor:
        answer = functional_call(call.layer, dict(parameters), given, dict(call.named))
        total: Tensor = (answer * error).sum()
        return total

    axes = (None, 0, *(0 if is_ else None for is_ in batched))
    found: OfParameters = vmap(grad(product), in_dims=axes)(own, error.unflatten(0, (exams, -1)), *given)
    return found


_RULES: dict[type[nn.Module], Callable[[_Call, Tensor, int], OfParameters]] = {
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
}
"""By exact type: a subclass may compute anything."""


class _OutOfPlace(TorchFunctionMode):
    """Activations and residual sums (``y += x``) make new tensors: what a layer has said must not change."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given: dict[str, Any] = dict(kwargs or {})
        if given.get("inplace"):
            given["inplace"] = False
        return torch.add(*args, **given) if func is Tensor.add_ else func(*args, **given)
