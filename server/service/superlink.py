"""Flower's SuperLink and its executor on this machine: what they are started with."""

from __future__ import annotations

import sys
from pathlib import Path

from common.machine import loopback
from common.machine.flower_environment import environment
from common.machine.loopback import LoopbackFiles
from common.machine.processes import Service
from server.federation.home import Home

HOME_VARIABLE = "SYNOFED_HOME"
"""Tells the ServerApp where the centre's home is."""


def files(home: Home) -> LoopbackFiles:
    """What the SuperLink keeps under ``superlink/`` of the centre's home, made anew at every start."""
    return LoopbackFiles(home.superlink)


def services(home: Home, *, port: int) -> tuple[Service, Service]:
    """The SuperLink and the executor of its ServerApps, not yet started.

    Args:
        home: of the centre; ``prepare`` of its :func:`files` was called.
        port: of the SuperLink on loopback.
    """
    made = files(home)
    flower = environment(home.superlink.resolve() / "flower", **{HOME_VARIABLE: str(home.path.resolve())})
    superlink = [
        *(sys.executable, "-P", "-m", "server.service.waiting_superlink"),
        *("--host", loopback.ADDRESS, "--port", str(port)),
        *("--ssl-certfile", str(made.certificate), "--ssl-keyfile", str(made.key)),
        *("--ssl-ca-certfile", str(made.authority)),
        *("--database", str(made.folder / "link.db"), "--enable-supernode-auth"),
        *("--isolation", "process", "--superexec-auth-secret-file", str(made.secret)),
        "--disable-runtime-dependency-installation",
    ]
    executor = [
        *_tool("flower-superexec"),
        *("--runtime-api-address", f"{loopback.ADDRESS}:{port}"),
        *("--root-certificates", str(made.authority)),
        *("--superexec-auth-secret-file", str(made.secret)),
    ]
    return (
        Service(
            name="superlink",
            command=lambda: superlink,
            environment={**flower, "FLWR_LOG_LEVEL": "WARNING"},  # else a line per request
            log=made.folder / "superlink.log",
        ),
        Service(
            name="superexec",
            command=lambda: executor,
            environment=flower,
            log=made.folder / "superexec.log",
        ),
    )


def _tool(name: str) -> list[str]:
    return [sys.executable, "-P", str(Path(sys.executable).parent / name)]
