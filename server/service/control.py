"""The SuperLink's control API, on loopback: its sites and its runs.

The one module at the centre that touches Flower's internal names; ``tests/deployment`` fails when they
change.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from common import fab
from common.errors import ConfigurationError, ConnectionLostError


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A site as the SuperLink knows it.

    Attributes:
        node_id: Flower's number of it.
        name: the site's registered name.
        key: its public key, as :func:`canonical` writes it.
        online: whether it sent a sign of life within the last minute.
        last_seen: when it last came or went, ISO 8601; empty if never.
    """

    node_id: int
    name: str
    key: bytes
    online: bool
    last_seen: str


@dataclass(frozen=True, slots=True)
class Control:
    """A connection to the control API."""

    client: ControlHttpClient

    def nodes(self) -> tuple[Node, ...]:
        """The sites that are registered at the SuperLink."""
        with _translated():
            listed = self.client.ListNodes(ListNodesRequest()).nodes_info
        return tuple(
            Node(
                node_id=node.node_id,
                name=node.name,
                key=canonical(node.public_key),
                online=node.status == "online",
                last_seen=max(node.last_activated_at, node.last_deactivated_at),
            )
            for node in listed
            if node.status != "unregistered"
        )

    def register(self, name: str, key: bytes) -> None:
        """Let a site connect."""
        with _translated():
            self.client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))

    def unregister(self, node_id: int) -> None:
        """Shut a site out, at once."""
        with _translated():
            self.client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start(self, campaign: str) -> int:
        """Start the ServerApp of a campaign.

        Returns:
            Flower's number of the run.
        """
        request = StartRunRequest(
            fab=Fab(hash_str=fab.fab_hash(), content=fab.fab()),
            override_config=user_config_to_proto({fab.CAMPAIGN: campaign}),
        )
        with _translated():
            return int(self.client.StartRun(request).run_id)

    def stop(self, run_id: int) -> None:
        """End a run."""
        with _translated():
            self.client.StopRun(StopRunRequest(run_id=run_id))

    def active(self) -> frozenset[int]:
        """The runs that have not ended."""
        with _translated():
            runs = self.client.ListRuns(ListRunsRequest()).run_dict
        return frozenset(run_id for run_id, run in runs.items() if run.status.status != "finished")


@contextmanager
def connect(port: int, certificate: Path) -> Iterator[Control]:
    """Connect to the SuperLink on this machine.

    Args:
        port: on loopback.
        certificate: the SuperLink's own, PEM.

    Raises:
        ConnectionLostError: on use, if it does not answer.
    """
    try:
        pem = certificate.read_bytes()
        client = ControlHttpClient.from_server_address(
            server_address=f"127.0.0.1:{port}",
            insecure=False,
            root_certificates=pem,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="synofed")],
        )
    except (OSError, ssl.SSLError):
        raise ConnectionLostError(
            f"Expected the SuperLink's certificate at {certificate}: start the centre with synofed federation up"
        ) from None
    try:
        yield Control(client)
    finally:
        client.close()


def canonical(key: bytes | str) -> bytes:
    """A public key of EC P-384 as PEM.

    Args:
        key: as OpenSSH or PEM writes it.

    Raises:
        ConfigurationError: if it is no such key.
    """
    content = key.encode() if isinstance(key, str) else key
    try:
        load = load_pem_public_key if content.startswith(b"-----") else load_ssh_public_key
        loaded = load(content)
    except ValueError as error:
        raise ConfigurationError(
            f"Expected a site's public key (EC P-384), got something else: {error}"
        ) from None
    if not isinstance(loaded, EllipticCurvePublicKey):
        raise ConfigurationError(f"Expected a key of EC P-384, got {type(loaded).__name__}")
    return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise ConnectionLostError(
            f"The SuperLink refused a request ({error.response.status_code}): {error.response.text[:200]}"
        ) from None
    except httpx.HTTPError as error:
        raise ConnectionLostError(
            f"The SuperLink does not answer ({type(error).__name__}): is synofed federation up running?"
        ) from None
