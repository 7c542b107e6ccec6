"""What a network is apart from its weights, and the weights of many alike in one place."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

_STRUCTURE = frozenset(vars(nn.Module()))
"""What every module has; the rest of ``vars`` are a class's own attributes."""


class _Itself:
    """Equal to the same object only; keeps it alive, so that no later one can take its place."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def architecture(network: nn.Module) -> Hashable:
    """What a network is apart from its weights: equal architectures compute the same function of them.

    Of each of its modules: class, plain attributes, names and shapes of weights. A module with hooks, or with
    an attribute that cannot be compared, is like no other.
    """
    modules = network.named_modules(remove_duplicate=False)
    return tuple((name, _described(module)) for name, module in modules)


def _described(module: nn.Module) -> Hashable:
    own = {key: value for key, value in vars(module).items() if key not in _STRUCTURE}
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    tensors = (*module._parameters.items(), *module._buffers.items())
    shapes = tuple((key, None if tensor is None else tuple(tensor.shape)) for key, tensor in tensors)
    return type(module), _frozen(own), shapes, _Itself(module) if any(hooks) else None


def _frozen(value: object) -> Hashable:
    """Something hashable that is equal for equal plain values, and for nothing else but the same object."""
    if isinstance(value, Mapping):
        return tuple((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_frozen(item) for item in value)
    plain = isinstance(value, (str, bytes, int, float, type(None), type, torch.dtype, torch.device))
    return (type(value), value) if plain else _Itself(value)


def gather(
    networks: Sequence[nn.Module],
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format,
) -> Tensor:
    """One weight of all networks as one tensor, of which they keep views; their own copies are let go.

    Args:
        networks: of one architecture.
        name: of the parameter or buffer.
        dtype: of the tensor.
        device: where the tensor is made; only it is allocated there.
        memory_format: of a convolution's weights.

    Returns:
        The values, ``(networks, *shape)``.
    """
    shape = _get(networks[0], name).shape
    first, *rest = shape or (1,)
    merged = torch.empty(
        (len(networks) * first, *rest),
        dtype=dtype,
        device=device,
        memory_format=memory_format if len(shape) == 4 else torch.contiguous_format,
    )
    together = merged.view(len(networks), *shape)
    for network, view in zip(networks, together, strict=True):
        put(network, name, view.copy_(_get(network, name).detach()))
    return together


def weights_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers; counters are left out: nothing reads them in evaluation."""
    tensors = (
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    )
    return ((name, tensor) for name, tensor in tensors if tensor.is_floating_point())


def _get(network: nn.Module, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    tensor: Tensor = getattr(network.get_submodule(owner), attribute)
    return tensor


def put(network: nn.Module, name: str, values: Tensor) -> None:
    """Put other values in the place of a parameter or buffer of this name."""
    owner, _, attribute = name.rpartition(".")
    module = network.get_submodule(owner)
    if attribute in module._parameters:
        module._parameters[attribute] = nn.Parameter(values, requires_grad=False)
    else:
        module._buffers[attribute] = values
