"""Flower's SuperLink and its executor on this machine: what they are started with."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common import atomic, loopback
from common.flower_environment import FLOWER_ENVIRONMENT
from common.processes import Service
from server.home import Home

HOME_VARIABLE = "SYNOFED_HOME"
"""Tells the ServerApp where the centre's home is."""


@dataclass(frozen=True, slots=True)
class SuperlinkFiles:
    """What the SuperLink keeps under ``superlink/`` of the centre's home."""

    folder: Path

    @property
    def database(self) -> Path:
        """Nodes, runs and messages: they survive a restart."""
        return self.folder / "link.db"

    @property
    def authority(self) -> Path:
        """What processes on this machine trust."""
        return self.folder / "loopback-ca.crt"

    @property
    def certificate(self) -> Path:
        """The SuperLink's own certificate."""
        return self.folder / "loopback.crt"

    @property
    def key(self) -> Path:
        """The key of the certificate."""
        return self.folder / "loopback.key"

    @property
    def secret(self) -> Path:
        """What the executor proves itself with."""
        return self.folder / "superexec.secret"

    def prepare(self) -> None:
        """Make the folder, a certificate and a secret; the last two are new at every start."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        made = loopback.make(now=datetime.now(UTC))
        atomic.write(self.key, made.key, mode=0o600)
        atomic.write(self.certificate, made.certificate)
        atomic.write(self.authority, made.authority)
        atomic.write(self.secret, secrets.token_hex(32).encode(), mode=0o600)


def services(home: Home, *, port: int) -> tuple[Service, Service]:
    """The SuperLink and the executor of its ServerApps, not yet started.

    Args:
        home: of the centre; :meth:`SuperlinkFiles.prepare` was called.
        port: of the SuperLink on loopback.
    """
    files = SuperlinkFiles(home.superlink)
    environment = _environment(home)
    superlink = [
        *(sys.executable, "-P", "-m", "server.patient_superlink"),
        *("--host", loopback.ADDRESS, "--port", str(port)),
        *("--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.key)),
        *("--ssl-ca-certfile", str(files.authority)),
        *("--database", str(files.database), "--enable-supernode-auth"),
        *("--isolation", "process", "--superexec-auth-secret-file", str(files.secret)),
        "--disable-runtime-dependency-installation",
    ]
    executor = [
        *_tool("flower-superexec"),
        *("--runtime-api-address", f"{loopback.ADDRESS}:{port}"),
        *("--root-certificates", str(files.authority)),
        *("--superexec-auth-secret-file", str(files.secret)),
    ]
    return (
        Service(
            name="superlink",
            command=lambda: superlink,
            environment={**environment, "FLWR_LOG_LEVEL": "WARNING"},  # else a line a request
            log=files.folder / "superlink.log",
        ),
        Service(
            name="superexec",
            command=lambda: executor,
            environment=environment,
            log=files.folder / "superexec.log",
        ),
    )


def _tool(name: str) -> list[str]:
    return [sys.executable, "-P", str(Path(sys.executable).parent / name)]


def _environment(home: Home) -> Mapping[str, str]:
    tools = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **FLOWER_ENVIRONMENT,
        "PATH": os.pathsep.join([tools, os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home.superlink.resolve() / "flower"),
        HOME_VARIABLE: str(home.path.resolve()),
    }
