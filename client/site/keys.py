"""The site's signing key and its secret: made here on first use, never sent, readable by their owner only."""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from client.files import atomic
from common.errors import DataError

SECRET_BYTES = 32


def path(folder: Path) -> Path:
    """Where the key of a site lies."""
    return folder / "keys" / "receipt.pem"


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The key that signs a site's receipts, made if there is none.

    Raises:
        StorageError: if it cannot be written.
        DataError: if it cannot be read or is damaged: the centre knows it, so it is never quietly replaced.
    """
    place = path(folder)
    try:
        if not place.exists():
            _make(place)
        key = load_pem_private_key(place.read_bytes(), password=None)
    except OSError as error:
        raise DataError(f"Expected the site's signing key at {place}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise DataError(f"Expected a signing key in {place}: restore it from a backup") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise DataError(f"Expected an Ed25519 key in {place}, got another kind: restore it from a backup")
    return key


def public_key(folder: Path) -> str:
    """The public half of :func:`signing_key`: 32 bytes in hex.

    Raises:
        DataError: as :func:`signing_key`.
    """
    return signing_key(folder).public_key().public_bytes_raw().hex()


def site_secret(folder: Path) -> bytes:
    """The site's secret of 32 bytes, made on first use, readable by its owner only.

    Raises:
        StorageError: if it cannot be written.
        DataError: if it is damaged: the held-out patients depend on it, so it is never quietly replaced.
    """
    path = folder / "store" / "secret"
    if not path.exists():
        atomic.create(path, secrets.token_bytes(SECRET_BYTES))
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise DataError(
            f"Expected {SECRET_BYTES} bytes in {path}, got {len(secret)}: restore it from a backup"
        )
    return secret


def _make(place: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    atomic.create(place, pem)
