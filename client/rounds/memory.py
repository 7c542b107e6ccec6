"""What a site does when its device has too little memory: as its policy says."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import torch

from client.log.log import site_log
from client.site.site import Site
from common.errors import MemoryLimitError
from common.training import resident
from common.training.memory import ran_out

Result = TypeVar("Result")
SMALLEST_SHARE = 16
"""Batches get no smaller than one so manieth of the plan's."""


def within(site: Site, device: torch.device, work: Callable[[torch.device, int], Result]) -> Result:
    """Work on the device; where memory runs out, with smaller batches or on the CPU if the policy permits that.

    Args:
        site: whose policy it is.
        device: to begin with.
        work: given a device, and by what to divide the batch size.

    Raises:
        MemoryLimitError: if it does not fit, or the policy refuses to go on otherwise.
    """
    for where, share in _ways(site, device):
        try:
            return work(where, share)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            how = f"batches of 1/{share}" if share > 1 else "the plan's batches"
            site_log(site.folder, logging.WARNING, f"{where} has too little memory for {how}")
        _let_go(device)  # outside of the except clause: the error holds the tensors of the failed work
    raise MemoryLimitError(
        f"{device} has too little memory for this campaign: free some memory, or set policy.out_of_memory "
        f"in site.toml to smaller_batch or cpu (now {site.policy.out_of_memory!r})"
    )


def _let_go(device: torch.device) -> None:
    gc.collect()  # networks with hooks hold themselves
    if device.type == "cuda":
        with suppress(RuntimeError):  # of a card that has no room for this process at all
            torch.cuda.empty_cache()


def _ways(site: Site, device: torch.device) -> Iterator[tuple[torch.device, int]]:
    yield device, 1
    if resident.let_go(device):
        yield device, 1  # the same with the pictures on the host
    if site.policy.out_of_memory == "cpu" and device.type != "cpu":
        yield torch.device("cpu"), 1
    if site.policy.out_of_memory == "smaller_batch":
        share = 2
        while share <= SMALLEST_SHARE:
            yield device, share
            share *= 2
