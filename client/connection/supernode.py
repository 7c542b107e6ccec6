"""The two processes of a site that is joined: the guarded SuperNode and its executor."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w
from pydantic import SecretStr

from common.machine import atomic, loopback
from common.machine.flower_environment import environment
from common.machine.loopback import LoopbackFiles
from common.machine.processes import Service

SITE_VARIABLE = "SYNOFED_SITE_FOLDER"
"""Tells the guarded SuperNode which site's log its refusals belong to."""
TASK_POLL_S = 0.2
"""Between two looks of the executor for a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """What the site's SuperNode is started with.

    Attributes:
        folder: of the site, absolute.
        address: of the centre, ``HOST:PORT``.
        device: that trains; ``auto``: CUDA if there is any.
        threads: of the CPU; 0: as torch chooses.
        proxy: variables of the environment that name the forward proxy, if there is one.
    """

    folder: Path
    address: str
    device: str = "auto"
    threads: int = 0
    proxy: Mapping[str, SecretStr] = field(default_factory=dict)


def files(folder: Path) -> LoopbackFiles:
    """What the SuperNode keeps under ``flower/`` of the site's folder, made anew at every start."""
    return LoopbackFiles(folder / "flower")


def prepare(joining: Joining) -> None:
    """Make the SuperNode's files and its configuration, which the site gives it and never the centre."""
    made = files(joining.folder)
    made.prepare()
    node: dict[str, object] = {"site-folder": str(joining.folder), "device": joining.device}
    if joining.threads:
        node["threads"] = joining.threads
    atomic.write(_node(made), tomli_w.dumps(node).encode(), mode=0o600)


def services(joining: Joining, *, port: int) -> tuple[Service, Service]:
    """The SuperNode and its executor, not yet started.

    Args:
        joining: what they are started with; :func:`prepare` was called with it.
        port: of the SuperNode on loopback, for the executor alone.
    """
    made = files(joining.folder)
    node = [
        *("--superlink", joining.address),
        *("--root-certificates", str(joining.folder / "federation" / "ca.crt")),
        *("--auth-supernode-private-key", str(joining.folder / "keys" / "node")),
        *("--node-config", str(_node(made))),
        *("--isolation", "process", "--superexec-auth-secret-file", str(made.secret)),
        *("--host", loopback.ADDRESS, "--port", str(port)),
        *("--ssl-certfile", str(made.certificate), "--ssl-keyfile", str(made.key)),
        *("--ssl-ca-certfile", str(made.authority)),
    ]
    executor = [
        *("--runtime-api-address", f"{loopback.ADDRESS}:{port}"),
        *("--root-certificates", str(made.authority)),
        *("--superexec-auth-secret-file", str(made.secret)),
    ]
    flower = environment(
        made.folder,
        FLWR_SUPEREXEC_TASK_POLL_INTERVAL=str(TASK_POLL_S),
        **{SITE_VARIABLE: str(joining.folder)},
    )
    proxy = {name: url.get_secret_value() for name, url in joining.proxy.items()}
    return (
        Service(
            name="supernode",
            command=lambda: _guarded("node", node),
            environment={**flower, **proxy, "NO_PROXY": f"{loopback.ADDRESS},localhost"},
            log=made.folder / "supernode.log",
        ),
        Service(
            name="executor",
            command=lambda: _guarded("executor", executor),
            environment={**flower, "NO_PROXY": f"{loopback.ADDRESS},localhost"},
            log=made.folder / "executor.log",
        ),
    )


def free_port() -> int:
    """A port on loopback that nobody has now; who takes it before the SuperNode does has no certificate for it."""
    with socket.socket() as probe:
        probe.bind((loopback.ADDRESS, 0))
        return int(probe.getsockname()[1])


def _node(made: LoopbackFiles) -> Path:
    return made.folder / "node.toml"


def _guarded(role: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "client.connection.guarded_supernode", role, *arguments]
