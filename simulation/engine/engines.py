"""Runs one campaign over site folders: in this process, or on Flower's Ray engine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from client.app import app as client_app
from client.site import training_device
from common.errors import CampaignError, ConfigurationError
from common.sections.compute import ComputeSettings
from common.settings import Settings
from server import app as server_app
from server.campaign.campaign import Observer, Outcome
from server.campaign.library import NetworkLibrary
from simulation.engine import ray_engine
from simulation.engine.grid import InProcessGrid, StrictGrid, Workers
from simulation.engine.places import Places
from simulation.engine.ray_workers import RayWorkers

DIGITS = re.compile(r"[0-9]{1,4}")
DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,4})?")


def devices(compute: ComputeSettings) -> tuple[str, ...]:
    """The device of each worker.

    ``auto`` is every CUDA device where there is one, or else a CPU worker for each ``threads`` cores.

    Raises:
        ConfigurationError: if a device is none, or not on this machine.
    """
    if compute.devices != ("auto",):
        return _named(compute.devices)
    there = training_device.gpu_count()
    if there:
        return tuple(f"cuda:{index}" for index in range(there))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ("cpu",) * max(1, cores // compute.threads)


def _named(names: Sequence[str]) -> tuple[str, ...]:
    found = tuple(f"cuda:{name}" if DIGITS.fullmatch(name) else name for name in names)
    unknown = [name for name, device in zip(names, found, strict=True) if not DEVICE.fullmatch(device)]
    if unknown or not found:
        raise ConfigurationError(
            f'Expected names of devices in compute.devices: "auto" alone, or for each worker "cpu", "cuda" or '
            f"a GPU's number; got {list(names)}: {', '.join(map(repr, unknown)) or 'nothing'} is none of them"
        )
    there = training_device.gpu_count()
    missing = [device for device in found if device != "cpu" and _number(device) >= there]
    if missing:
        has = f"{there} CUDA devices, numbered from 0" if there else "no CUDA device"
        raise ConfigurationError(
            f"Expected devices of this machine in compute.devices, got {', '.join(missing)}: it has "
            f"{has}; name others, or cpu"
        )
    return found


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def places(
    compute: ComputeSettings, folders: Sequence[Path], say: Callable[[str], None] = lambda line: None
) -> Places:
    """Where pieces of work run with the engine that the settings name; entered, they are there.

    Args:
        compute: the engine, its devices or its cluster.
        folders: that pieces read and write: the sites' and the run's.
        say: told at the end where pieces ran, if that was on nodes.
    """
    if compute.engine == "ray":
        return RayWorkers(compute, folders, say)
    return Workers(devices(compute), threads=compute.threads, stacked=compute.stacked)


def site_app(message: Message, context: Context) -> Message:
    """A hospital's ClientApp, under a name by which a node of a cluster finds it."""
    return client_app(message, context)


def run_campaign(
    settings: Settings,
    folders: Sequence[Path],
    *,
    folder: Path,
    observer: Observer,
    workers: Places,
    library: NetworkLibrary | None = None,
) -> Outcome:
    """Run a campaign over simulated sites with the engine that the settings name.

    Args:
        settings: the configuration.
        folders: the sites' folders.
        folder: where the campaign keeps its journal and its networks.
        observer: told of every stage and round.
        workers: where the in-process engine's sites answer; several campaigns can share them.
        library: networks that need not be trained again.

    Raises:
        SynofedError: as :func:`server.campaign.campaign.run`.
    """
    outcomes: list[Outcome] = []
    centre = server_app.build(
        settings,
        sites=len(folders),
        folder=folder,
        observer=observer,
        finished=outcomes.append,
        library=library,
    )
    if settings.compute.engine == "ray":
        ray_engine.run(centre, folders, workers.stopped, settings.compute)
    else:
        grid = StrictGrid(InProcessGrid(site_app, folders, workers), workers.stopped)
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        centre(grid, context)
    if not outcomes:
        raise CampaignError("The simulation engine ended before the campaign did")
    return outcomes[0]
