"""Where the site runs: device, cores, memory, disk, and who else can read its folder."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from client.check.report import DetailRow, Finding, ok, problem, warning
from client.site import file_permissions
from client.site import training_device as training
from client.site.site import Site
from common.errors import ConfigurationError, MemoryLimitError, StorageError

if TYPE_CHECKING:
    import torch

GB = 1e9
LEAST_MEMORY_BYTES = 2e9
LEAST_DISK_BYTES = 1e9
LEAST_GPU_BYTES = 2e9


def findings(site: Site) -> tuple[list[Finding], list[DetailRow]]:
    """Findings on everything but the disk, which depends on the plan, and the rows behind them."""
    found = [_device(site), _memory()]
    open_to_others = file_permissions.check(site.folder)
    found += [warning("place", _counted(one, site.folder)) for one in open_to_others]
    if not open_to_others:
        found.append(ok("place", "Other accounts of this machine can read nothing of the site"))
    return found, [("open to others", "", "", "", one) for one in open_to_others]


def disk(site: Site, *, outbox_bytes: int) -> Finding:
    """Whether the disk has room.

    Args:
        site: the site.
        outbox_bytes: what the replies of a whole campaign take, where they are kept.
    """
    free = shutil.disk_usage(site.folder).free
    kept = outbox_bytes if site.policy.keep_outbox_days else 0
    needed = kept + LEAST_DISK_BYTES
    store = _size(site.folder / "store")
    said = (
        f"{free / GB:.1f} GB of disk are free. The stores take {_read(store)}, copies of a campaign's replies up to "
        f"{_read(kept)}"
    )
    facts = {"free_bytes": free, "store_bytes": store, "outbox_bytes": kept}
    if free < needed:
        advice = "Free some space, or lower policy.keep_outbox_days"
        return problem("place", StorageError, said, advice, **facts)
    if free < 2 * needed:
        return warning("place", said, "That is tight", **facts)
    return ok("place", said, **facts)


def training_device(site: Site) -> torch.device:
    """Where the site trains, as ``site.toml`` says.

    Raises:
        ConfigurationError: if there is no such GPU.
    """
    compute = site.file.compute
    return training.prepared(site, device=compute.device, threads=compute.threads)


def _device(site: Site) -> Finding:
    import torch  # noqa: PLC0415

    try:
        device = training_device(site)
    except (ConfigurationError, MemoryLimitError) as error:
        return problem("place", error)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu":
        threads = site.file.compute.threads or torch.get_num_threads()
        return ok(
            "place", f"Trains on the CPU: {threads} threads, {cores} cores", device="cpu", threads=threads
        )
    free, total = torch.cuda.mem_get_info(device)
    share = site.file.compute.gpu_memory_fraction
    said = (
        f"Trains on {torch.cuda.get_device_name(device)}: {free / GB:.1f} of {total / GB:.1f} GB are free, up to "
        f"{share * total / GB:.1f} GB are taken"
    )
    if min(free, share * total) < LEAST_GPU_BYTES:
        return warning(
            "place", said, "That is little: stop other programs there", device=str(device), free_bytes=free
        )
    return ok("place", said, device=str(device), free_bytes=free)


def _memory() -> Finding:
    free = _free_memory()
    if free is None:
        return ok("place", "How much memory is free is not known here")
    said = f"{free / GB:.1f} GB of memory are free"
    if free < LEAST_MEMORY_BYTES:
        return warning("place", said, "That is little: stop other programs here", free_bytes=free)
    return ok("place", said, free_bytes=free)


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(found) * 1024 if found else None


def _counted(said: str, folder: Path) -> str:
    """The sentence without the names of pictures, which may be those of exams."""
    if not said.startswith(f"Other accounts can read in {folder}: "):
        return said
    return f"Other accounts can read what lies in {folder}. Close it: chmod -R go-rwx {folder}"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a store that another process has just moved to its place
            total += path.stat().st_size if path.is_file() else 0
    return total


def _read(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / 1e6:.1f} MB"
