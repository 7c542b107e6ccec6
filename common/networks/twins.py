"""A network's structure on other weights, while the network itself stays as it is for whoever asks it meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn


def twin(module: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> nn.Module:
    """A shallow copy with other weights: whatever attributes a foreign network has, copying cannot fail.

    Unlike ``torch.func.functional_call``, which puts them into the network for as long as it runs, it can be asked
    from several threads.

    Args:
        module: the network; hooks on its parts are on the copy's, too.
        weights: by name; the rest are shared.
        prefix: of the module's names.
    """
    other = copy.copy(module)
    for kind, tensors in (("_parameters", module._parameters), ("_buffers", module._buffers)):
        other.__dict__[kind] = {name: weights.get(prefix + name, tensor) for name, tensor in tensors.items()}
    other.__dict__["_modules"] = {
        name: child if child is None else twin(child, weights, f"{prefix}{name}.")
        for name, child in module._modules.items()
    }
    return other
