"""Many networks of one architecture computed as one: their channels side by side, each layer one operation.

K networks that run one after another start every layer K times. Here the K weights of a layer lie in one
tensor, the K activations ``(n, C, ...)`` in one of ``(n, K * C, ...)``, network after network, and then

* K convolutions are one with K times the groups, or, where all read the same picture, one ordinary
  convolution with K times the outputs;
* K GroupNorms of g groups are one of K * g, K BatchNorms one over K * C channels, each with its own statistics;
* K linear layers are one batched product;
* concatenation interleaves the networks; pooling, activation functions and sums are what they are.

A network is not rewritten for it: it runs as it is, on weights of a tensor class that gives each operation
this meaning (``__torch_function__``) and sees the shapes that one network alone would see. An operation
that has no rule here is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from common.networks.twins import twin


class UnstackableError(RuntimeError):  # a TypeError would make Python try the operands in turn
    """A network does something to its activations or weights that has no rule here; run it by itself."""


class Stacked(Tensor):
    """Values of several networks, one after another along the axis of channels or outputs.

    Attributes:
        count: how many networks.
    """

    count: int
    axis = 1

    @classmethod
    def of(cls, merged: Tensor, count: int) -> Stacked:
        """Mark values of ``count`` networks, merged along ``axis``."""
        marked: Stacked = merged.as_subclass(cls)
        marked.count = count
        return marked

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """What an operation means for several networks; PyTorch calls this in its place."""
        with torch._C.DisableTorchFunctionSubclass():  # inside, merged tensors are ordinary ones
            if func in _QUESTIONS:
                return _QUESTIONS[func](*args, **(kwargs or {}))
            if func not in _RULES:
                raise UnstackableError(f"no rule to stack {getattr(func, '__name__', func)}")
            count = _count((*args, *(kwargs or {}).values()))
            merged = _RULES[func](count, *args, **(kwargs or {}))
            return Activations.of(merged, count)


class Activations(Stacked):
    """Activations ``(n, K * C, ...)``."""


class Weights(Stacked):
    """Parameters or running statistics ``(K * C, ...)``."""

    axis = 0


def stacked_network(network: nn.Module, weights: Mapping[str, Tensor], count: int) -> nn.Module:
    """A network that computes several at once.

    Args:
        network: one of them; its structure is copied, its weights are not.
        weights: name of each parameter and floating buffer -> values of all networks, ``(count, *shape)``.
        count: how many networks.

    Returns:
        A module for :func:`logits`. It holds ``weights``, not copies of them.
    """
    merged = {
        name: Weights.of(values.flatten(0, 1) if values.ndim > 1 else values, count)
        for name, values in weights.items()
    }
    return twin(network, merged)


def side_by_side(pictures: Float[Tensor, "all ... c h w"], count: int) -> Activations:
    """Pictures of which each network reads others, for :func:`logits`.

    Args:
        pictures: network after network, equally many of each; or their tiles, with an axis of tiles before ``c``.
        count: how many networks.
    """
    beside = pictures.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)
    marked = Activations.of(beside, count)
    assert isinstance(marked, Activations)
    return marked


def logits(
    stacked: nn.Module, pictures: Sequence[Float[Tensor, "n ..."]], count: int
) -> Float[Tensor, "networks n classes"]:
    """Logits of all networks.

    Args:
        stacked: from :func:`stacked_network`.
        pictures: what the networks read, in their order: the same for all, or from :func:`side_by_side`.
        count: how many networks.

    Raises:
        UnstackableError: if the architecture cannot be stacked.
    """
    answer = stacked(pictures)
    if not isinstance(answer, Activations):
        raise UnstackableError(
            f"expected one tensor that depends on the weights, got {type(answer).__name__}"
        )
    with torch._C.DisableTorchFunctionSubclass():
        if answer.ndim != 2:
            raise UnstackableError(f"expected logits of two axes, got {answer.ndim}")
        return _apart(answer, count).transpose(0, 1)


def _count(args: Sequence[object]) -> int:
    for arg in args:
        if isinstance(arg, Stacked):
            return arg.count
        if isinstance(arg, (list, tuple)) and (inner := _count(arg)):
            return inner
    return 0


def _spread(values: object, count: int) -> Tensor:
    """Activations as they are; what all networks share, once for each."""
    if isinstance(values, Activations):
        return values
    if isinstance(values, Weights) or not isinstance(values, Tensor) or values.ndim < 2:
        raise UnstackableError(f"expected activations, got {type(values).__name__}")
    return values.repeat(1, count, *[1] * (values.ndim - 2))


def _apart(merged: Tensor, count: int) -> Tensor:
    """``(n, K * C, ...)`` as ``(n, K, C, ...)``."""
    n, channels, *rest = merged.shape
    return merged.reshape(n, count, channels // count, *rest)


def _own(*weights: object) -> None:
    for values in weights:
        if values is not None and not isinstance(values, Weights):
            raise UnstackableError("expected weights that every network has its own of")


def _conv2d(
    count: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    _own(weight, bias)
    if isinstance(x, Activations) or groups > 1:
        x, groups = _spread(x, count), groups * count
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _linear(count: int, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _own(weight, bias)
    if x.ndim != 2:
        raise UnstackableError(f"expected features of two axes, got {x.ndim}")
    if not isinstance(x, Activations):
        return F.linear(x, weight, bias)
    features = _apart(x, count).transpose(0, 1)
    products = features @ weight.view(count, -1, weight.shape[1]).transpose(1, 2)
    y = products.transpose(0, 1).flatten(1)
    return y if bias is None else y + bias


def _group_norm(
    count: int,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    _own(weight, bias)
    return F.group_norm(_spread(x, count), num_groups * count, weight, bias, eps)


def _batch_norm(
    count: int,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    _own(running_mean, running_var, weight, bias)
    x = _spread(x, count)
    return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def _dropout(count: int, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if training:
        raise UnstackableError("expected dropout in evaluation")
    return _spread(x, count)


def _cat(count: int, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    if dim != 1:
        raise UnstackableError(f"expected concatenation along axis 1, got {dim}")
    networks = [_apart(_spread(tensor, count), count) for tensor in tensors]
    return torch.cat(networks, dim=2).flatten(1, 2)


def _over_picture(reduced: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The rule of a mean or maximum over the picture."""

    def rule(count: int, x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        axes = tuple(dim) if isinstance(dim, Sequence) else () if dim is None else (dim,)
        if not axes or any(axis % x.ndim < 2 for axis in axes):
            raise UnstackableError(f"expected {reduced.__name__} over the picture, got axes {dim}")
        return reduced(_spread(x, count), axes, keepdim)

    return rule


def _flatten(count: int, x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    if isinstance(x, Activations) and x.ndim == 5 and (start_dim, end_dim) == (0, 1):  # tiles become pictures
        return _apart(x, count).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    if (start_dim, end_dim % x.ndim) != (1, x.ndim - 1):
        raise UnstackableError(f"expected all but the first axis flattened, got {start_dim}, {end_dim}")
    return _spread(x, count).flatten(1)


def _view(count: int, x: Tensor, *shape: int) -> Tensor:
    """The features of several pictures as those of one exam."""
    if not isinstance(x, Activations) or x.ndim != 2 or len(shape) != 2 or shape[1] != -1:
        raise UnstackableError(f"expected features of pictures that follow one another as one, got {shape}")
    each: Tensor = _apart(x, count).unflatten(0, (shape[0], -1))
    return each.transpose(1, 2).flatten(1)


def _channelwise(func: Callable[..., object]) -> Callable[..., Tensor]:
    """The rule of an operation on one tensor that never mixes channels."""

    def rule(count: int, x: Tensor, *rest: object, **options: object) -> Tensor:
        if any(isinstance(value, Tensor) for value in (*rest, *options.values())):
            raise UnstackableError(f"expected one tensor for {func}")
        answer = func(_spread(x, count), *rest, **options)
        if not isinstance(answer, Tensor):
            raise UnstackableError(f"expected one tensor from {func}")
        return answer

    return rule


def _elementwise(func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The rule of arithmetic between two activations, or one and a number."""

    def rule(count: int, x: Tensor, y: Tensor | float | int, **options: object) -> Tensor:
        if any(isinstance(value, Tensor) for value in options.values()) or (
            func.__name__.endswith("_") and not isinstance(x, Activations)  # would change what others read
        ):
            raise UnstackableError(f"expected {func.__name__} of activations")
        if not isinstance(y, Tensor):
            return func(_spread(x, count), y, **options)
        left, right = _spread(x, count), _spread(y, count)
        if (left.ndim, left.shape[1]) != (right.ndim, right.shape[1]):
            # channels that are broadcast would meet other networks'
            raise UnstackableError(f"expected equal channels for {func.__name__}")
        return func(left, right, **options)

    return rule


_CHANNELWISE: Sequence[Callable[..., object]] = (
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh),
    *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh),
    *(Tensor.relu, Tensor.relu_, Tensor.sigmoid, Tensor.tanh, Tensor.neg, Tensor.contiguous),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
)
_ELEMENTWISE: Sequence[Callable[..., Tensor]] = (
    *(torch.add, torch.sub, torch.mul, torch.div),
    *(Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.__rsub__),
    *(Tensor.add_, Tensor.sub_, Tensor.mul_, Tensor.div_),
)
_RULES: Mapping[Callable[..., object], Callable[..., Tensor]] = {
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    torch.cat: _cat,
    torch.mean: _over_picture(torch.mean),
    Tensor.mean: _over_picture(torch.mean),
    torch.amax: _over_picture(torch.amax),
    Tensor.amax: _over_picture(torch.amax),
    torch.flatten: _flatten,
    Tensor.flatten: _flatten,
    Tensor.view: _view,
    **{func: _channelwise(func) for func in _CHANNELWISE},
    **{func: _elementwise(func) for func in _ELEMENTWISE},
}


def _shape(values: Stacked) -> torch.Size:
    """The shape that one network alone would have."""
    merged = list(values.shape)
    if values.ndim > values.axis:
        merged[values.axis] //= values.count
    return torch.Size(merged)


def _size(values: Stacked, dim: int | None = None) -> torch.Size | int:
    return _shape(values) if dim is None else _shape(values)[dim]


_QUESTIONS: Mapping[Callable[..., object], Callable[..., object]] = {
    Tensor.shape.__get__: _shape,  # type: ignore[attr-defined]
    Tensor.size: _size,
    **{
        question: question
        for question in (
            Tensor.__len__,
            Tensor.__repr__,
            Tensor.dim,
            Tensor.is_floating_point,
            Tensor.ndim.__get__,  # type: ignore[attr-defined]
            Tensor.dtype.__get__,  # type: ignore[attr-defined]
            Tensor.device.__get__,
            Tensor.layout.__get__,  # type: ignore[attr-defined]
            Tensor.is_sparse.__get__,  # type: ignore[attr-defined]
            Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
        )
    },
}
