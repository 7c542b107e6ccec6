"""The two processes of a site that is joined: the guarded SuperNode and its executor."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from common import loopback
from common.flower_environment import FLOWER_ENVIRONMENT
from common.processes import Service

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
    proxy: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SupernodeFiles:
    """What the SuperNode keeps under ``flower/`` of the site's folder."""

    folder: Path

    @property
    def authority(self) -> Path:
        """What the executor trusts."""
        return self.folder / "loopback-ca.crt"

    @property
    def certificate(self) -> Path:
        """Of the SuperNode's local port."""
        return self.folder / "loopback.crt"

    @property
    def key(self) -> Path:
        """The key of the certificate."""
        return self.folder / "loopback.key"

    @property
    def secret(self) -> Path:
        """What the executor proves itself with."""
        return self.folder / "superexec.secret"

    @property
    def node(self) -> Path:
        """The node's configuration: given by the site, never by the centre."""
        return self.folder / "node.toml"

    def prepare(self, joining: Joining) -> None:
        """Make all of these anew, readable by their owner only."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)
        made = loopback.make(now=datetime.now(UTC))
        node: dict[str, object] = {"site-folder": str(joining.folder), "device": joining.device}
        if joining.threads:
            node["threads"] = joining.threads
        for path, content in {
            self.authority: made.authority,
            self.certificate: made.certificate,
            self.key: made.key,
            self.secret: secrets.token_hex(32).encode(),
            self.node: tomli_w.dumps(node).encode(),
        }.items():
            _write_private(path, content)


def services(joining: Joining, *, port: int) -> tuple[Service, Service]:
    """The SuperNode and its executor, not yet started.

    Args:
        joining: what they are started with; :meth:`SupernodeFiles.prepare` was called with it.
        port: of the SuperNode on loopback, for the executor alone.
    """
    files = SupernodeFiles(joining.folder / "flower")
    node = [
        *("--superlink", joining.address),
        *("--root-certificates", str(joining.folder / "federation" / "ca.crt")),
        *("--auth-supernode-private-key", str(joining.folder / "keys" / "node")),
        *("--node-config", str(files.node)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(files.secret)),
        *("--host", loopback.ADDRESS, "--port", str(port)),
        *("--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.key)),
        *("--ssl-ca-certfile", str(files.authority)),
    ]
    executor = [
        *("--runtime-api-address", f"{loopback.ADDRESS}:{port}"),
        *("--root-certificates", str(files.authority)),
        *("--superexec-auth-secret-file", str(files.secret)),
    ]
    environment = _environment(files)
    return (
        Service(
            name="supernode",
            command=lambda: _guarded("node", node),
            environment={**environment, **joining.proxy, "NO_PROXY": f"{loopback.ADDRESS},localhost"},
            log=files.folder / "supernode.log",
        ),
        Service(
            name="executor",
            command=lambda: _guarded("executor", executor),
            environment={**environment, "NO_PROXY": f"{loopback.ADDRESS},localhost"},
            log=files.folder / "executor.log",
        ),
    )


def free_port() -> int:
    """A port on loopback that nobody has now; who takes it before the SuperNode does has no certificate for it."""
    with socket.socket() as probe:
        probe.bind((loopback.ADDRESS, 0))
        return int(probe.getsockname()[1])


def _guarded(role: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "client.guarded_supernode", role, *arguments]


def _environment(files: SupernodeFiles) -> dict[str, str]:
    tools = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **FLOWER_ENVIRONMENT,
        "PATH": os.pathsep.join([tools, os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(files.folder),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(TASK_POLL_S),
    }


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
