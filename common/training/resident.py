"""A site's pictures on the card that trains, for as long as the site's store is open."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from common.training.data import ExamTensors

SHARE = 0.25
"""Of a device's free memory, the most that one image's pictures may take: training needs the rest."""

_copies = WeakTensorKeyDictionary()
"""Pictures on the host -> device -> their copy there, or ``None`` where they stay on the host."""
_changing = threading.Lock()


def resident(data: ExamTensors, images: Iterable[str], device: torch.device) -> ExamTensors:
    """The exams with the pictures of some images on the device, where they fit; on the CPU they are as they were.

    It is decided once for each image of a store. A copy lasts as long as what it is a copy of.
    """
    if device.type == "cpu":
        return data
    return replace(data, images={**data.images, **{n: _placed(data.images[n], device) for n in images}})


def let_go(device: torch.device) -> bool:
    """Take back the memory of all copies on a device, for good; whether there were any.

    What is being trained keeps its own until it is done.
    """
    with _changing:
        held = [known for known in _copies.values() if known.get(device) is not None]
        for known in held:
            known[device] = None
    return bool(held)


def _placed(pictures: Tensor, device: torch.device) -> Tensor:
    if not pictures.is_cpu:
        return pictures
    with _changing:
        known = _copies.setdefault(pictures, {})
        if device not in known:
            fits = pictures.nbytes <= SHARE * _free_bytes(device)
            with torch.inference_mode(False):  # scoring may ask first; training reads them later
                known[device] = pictures.to(device) if fits else None
        copy: Tensor | None = known[device]
    return pictures if copy is None else copy


def _free_bytes(device: torch.device) -> float:
    """What this process may still take of a card: within its share, and of what others leave."""
    if device.type != "cuda":
        return math.inf
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    share = torch.cuda.get_per_process_memory_fraction(device) * total
    return min(free + torch.cuda.memory_reserved(device), share) - allocated
