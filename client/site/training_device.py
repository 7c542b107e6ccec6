"""Where a site trains: as its settings say, or a refusal before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.site.site import Site
from common.errors import ConfigurationError, MemoryLimitError

if TYPE_CHECKING:
    import torch


def gpu_count() -> int:
    """GPUs of this machine that torch can use."""
    import torch  # noqa: PLC0415

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def found(name: str) -> torch.device:
    """The device of a name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigurationError: if there is no such GPU.
    """
    import torch  # noqa: PLC0415

    gpus = gpu_count()
    device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigurationError(
            f'Expected a GPU for compute.device = "{name}" in site.toml, torch sees {gpus}: look at its driver and '
            f"whether torch was installed with CUDA, or set auto or cpu"
        )
    return device


def prepared(site: Site, *, device: str, threads: int) -> torch.device:
    """The device that trains, with the threads and the share of memory that the site gives set.

    Raises:
        ConfigurationError: if there is no such GPU.
        MemoryLimitError: if it has no room for this process at all, so that its share cannot be set.
    """
    import torch  # noqa: PLC0415

    from common.training.memory import ran_out  # noqa: PLC0415  torch

    if threads > 0:
        torch.set_num_threads(threads)
    chosen = found(device)
    share = site.file.compute.gpu_memory_fraction
    if chosen.type == "cuda" and share < 1:
        try:
            torch.cuda.set_per_process_memory_fraction(share, chosen)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            raise MemoryLimitError(
                f"{chosen} has no memory left of which compute.gpu_memory_fraction = {share} could be set: free "
                f'some, or set compute.device = "cpu" in site.toml'
            ) from None
    return chosen
