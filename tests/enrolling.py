"""A centre and its sites as provisioning leaves them, without a running service."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from client.connection import enrolment as joining
from client.site import keys
from server.federation import enrolment, provision
from server.federation.home import Home
from server.federation.registry import RegisteredSite

NOW = datetime(2030, 5, 6, 12, 0, tzinfo=UTC)


def make_home(path: Path, *, address: str = "localhost:8443", now: datetime = NOW) -> Home:
    """A provisioned centre."""
    provision.provision(path, name="Test", address=address, now=now)
    return Home(path)


def join(home: Home, folder: Path, *, now: datetime = NOW) -> RegisteredSite:
    """Invite a site by its folder's name, enrol it there, accept its request."""
    joining.enrol(folder, enrolment.invite(home.path, folder.name, now=now), now=now)
    request = joining.request_file(folder).read_text(encoding="utf-8")
    return enrolment.accept(home.path, request, now=now)


def secrets_of_home(home: Home) -> tuple[bytes, ...]:
    """The centre's private numbers, as bytes."""
    return _written(home.ca_key.read_bytes()), _written(home.server_key.read_bytes())


def secrets_of_site(folder: Path) -> tuple[bytes, ...]:
    """A site's private numbers, as bytes."""
    return _written(joining.node_key(folder).read_bytes()), _written(keys.path(folder).read_bytes())


def holds(content: bytes, secret: bytes) -> bool:
    """Whether bytes hold a secret raw, in hex, or in base64 at any offset."""
    if any(form in content for form in (secret, secret.hex().encode(), secret.hex().upper().encode())):
        return True
    for offset in range(3):
        inner = base64.b64encode(bytes(offset) + secret)[
            4:-4
        ]  # the middle does not depend on what surrounds it
        if inner in content.replace(b"\\n", b"").replace(b"\n", b""):
            return True
    return False


def _written(pem: bytes) -> bytes:
    ssh = b"OPENSSH" in pem
    key = load_ssh_private_key(pem, password=None) if ssh else load_pem_private_key(pem, password=None)
    if isinstance(key, Ed25519PrivateKey):
        return key.private_bytes_raw()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes(48, "big")
