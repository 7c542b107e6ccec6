"""Flower's Ray engine: each site's work in a process of its own, on this machine or on the nodes of a Ray cluster.

On a cluster the sites' folders, which hold pictures, ledgers and logs, lie on a disk that every node sees. A round's
messages for one site may be worked on by two nodes, so locks have to hold from node to node: both are tried on every
node before anything is trained.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from client.app import app as client_app
from client.site import training_device
from common.errors import ConfigurationError
from common.machine import file_lock
from common.machine.flower_environment import FLOWER_ENVIRONMENT
from common.sections.compute import ComputeSettings
from common.version import VERSION
from simulation.engine.grid import StrictGrid

CONNECT_S = 20.0
LOOK_S = 120.0
"""How long a node may take to tell what it sees, its process's start included."""
KINDS = {"CPU": "num_cpus", "GPU": "num_gpus"}
"""A resource as Ray names it -> how much of it a site needs."""
Needs = dict[str, float]


@dataclass(frozen=True, slots=True)
class _Simulated:
    """Tells the site's ClientApp which folder a Ray worker's partition is."""

    folders: tuple[str, ...]
    compute: ComputeSettings

    def __call__(self, message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        context.node_config["site-folder"] = self.folders[partition]
        context.node_config["threads"] = self.compute.threads
        context.node_config["stacked"] = self.compute.stacked
        return client_app(message, context)


def run(
    centre: ServerApp, folders: Sequence[Path], stopped: threading.Event, compute: ComputeSettings
) -> None:
    """Run the centre against the sites, and wait for its end.

    Args:
        centre: the campaign.
        folders: the sites'.
        stopped: set: nothing more is asked of any site.
        compute: threads of a site, the cluster's address, a site's share of a GPU.

    Raises:
        ConfigurationError: for a cluster that is not there, or whose nodes do not see the sites' folders, do not lock
            them for each other, or have another version.
    """
    os.environ.update(FLOWER_ENVIRONMENT)
    from flwr.simulation import run_simulation  # noqa: PLC0415 (Ray takes a second to import)

    absolute = tuple(folder.resolve() for folder in folders)
    sites = _Simulated(tuple(map(str, absolute)), compute)
    each = needs(compute)
    strict = ServerApp()

    @strict.main()
    def main(grid: Grid, context: Context) -> None:
        centre(StrictGrid(grid, stopped), context)

    # Flower announces that `flwr run` will replace run_simulation; it needs a SuperLink, which no simulation does
    logging.getLogger("flwr").setLevel(logging.ERROR)

    def simulate() -> None:
        if compute.ray.address is not None:
            join(compute.ray.address, absolute, each)
        run_simulation(
            server_app=strict,
            client_app=cast(ClientApp, sites),
            num_supernodes=len(folders),
            backend_config={
                "client_resources": {**each},
                "init_args": {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False},
            },
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _apart(simulate, stopped)


def needs(compute: ComputeSettings) -> Needs:
    """What a site, or another piece of work, takes of a node."""
    gpus = compute.ray.gpus if compute.ray.gpus is not None else float(training_device.gpu_count() > 0)
    return {"num_cpus": compute.threads, "num_gpus": gpus}


def join(address: str | None, folders: Sequence[Path], needs: Needs) -> None:
    """Connect to a cluster, if all its nodes can do what is needed; without an address, to one of this machine.

    Raises:
        ConfigurationError: as :func:`run`.
    """
    os.environ.update(FLOWER_ENVIRONMENT)
    import ray  # noqa: PLC0415

    try:
        if address is not None and address != "auto":  # Ray itself goes on trying for minutes
            host, port = address.split(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(
                address=address or "local",  # never the one that Flower's engine has just left
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={
                    "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **FLOWER_ENVIRONMENT}
                },
                include_dashboard=None if address is not None else False,
            )
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        got = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigurationError(
            f'Expected a Ray cluster at compute.ray.address = "{address}", got: {got}. Start one with `ray start '
            "--head`, or leave the address out to work on this machine alone"
        ) from None
    if address is None:
        return
    try:
        _check(ray, folders, needs)
    except BaseException:
        ray.shutdown()
        raise


def _check(ray: Any, folders: Sequence[Path], needs: Needs) -> None:
    """Ask every node that has room for a site."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    able = [
        node
        for node in nodes
        if all(node["Resources"].get(kind, 0) >= needs[key] for kind, key in KINDS.items())
    ]
    if not able:
        has = "; ".join(
            ", ".join(f"{node['Resources'].get(kind, 0):g} {kind}s" for kind in KINDS) for node in nodes
        )
        raise ConfigurationError(
            f"Expected a node of the Ray cluster with {needs['num_cpus']} CPUs (compute.threads) and "
            f"{needs['num_gpus']} GPUs (compute.ray.gpus) for a site, got nodes with {has}"
        )
    look = ray.remote(_problem)
    with _probes(folders) as probes:
        asked = [
            look.options(num_cpus=0, max_retries=0, scheduling_strategy=_on(node)).remote(VERSION, *probes)
            for node in able
        ]
        try:
            problems = ray.get(asked, timeout=LOOK_S)
        except ray.exceptions.RayError as error:
            raise ConfigurationError(
                "Expected synofed installed on every node of the Ray cluster, got: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from None
    wrong = [
        f"{node['NodeManagerHostname']} {problem}"
        for node, problem in zip(able, problems, strict=True)
        if problem
    ]
    if wrong:
        raise ConfigurationError(
            "Expected every node of the Ray cluster to have this version, and to see the sites' folders on one disk "
            f"whose locks hold from node to node; got: {'; '.join(wrong)}"
        )


def _on(node: dict[str, Any]) -> object:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    return NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)


@contextmanager
def _probes(folders: Sequence[Path]) -> Iterator[tuple[list[str], list[str]]]:
    """The sites' folders, and beside them a file that is locked as long as the nodes look."""
    places = [
        parent / f".nodes-{uuid.uuid4().hex}" for parent in sorted({folder.parent for folder in folders})
    ]
    with ExitStack() as held:
        for place in places:
            held.callback(place.unlink, missing_ok=True)
            held.enter_context(file_lock.hold(place))
        yield [str(folder) for folder in folders], [str(place) for place in places]


def _problem(version: str, folders: Sequence[str], locked: Sequence[str]) -> str:
    """On a node: what is wrong there; nothing, if all is well."""
    if version != VERSION:
        return f"has version {VERSION}, here it is {version}"
    for folder in map(Path, folders):
        if not folder.is_dir():
            return f"does not see {folder}"
    for place in map(Path, locked):
        try:
            if not file_lock.is_held(place):
                return f"does not see who holds a lock in {place.parent}"
        except OSError as error:
            return f"cannot lock in {place.parent}: {error.strerror}"
    return ""


def _apart(simulate: Callable[[], None], stopped: threading.Event) -> None:
    """Run Flower's engine in a thread of its own: interrupted in the main one, it waits for itself for ever."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            simulate()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="ray", daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        # Ray must not be touched from here: it ends a process whose threads still ask it for something. The engine
        # ends by itself when its tasks do; and Ray's processes die with this one.
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        stopped.set()
        raise
    if errors:
        raise errors[0]
