"""From the host to a device, without making the host wait."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device; where they lie there already, themselves.

    To a card they go through pinned memory, so that the host goes on at once. Such memory's allocator gives it to
    nobody else before the copy is done.
    """
    if device.type != "cuda" or not values.is_cpu:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
