"""The privacy officer's key: who holds it decides what the site permits."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from client.files import atomic
from common.errors import DataError, VerificationError, refusal
from common.machine.atomic import write_new

MINIMUM_PASSPHRASE = 12


def path(folder: Path) -> Path:
    """Where a site keeps the public half."""
    return folder / "keys" / "officer.pub"


def make(place: Path, *, passphrase: str) -> str:
    """Make a key, encrypted with a passphrase, for its owner to keep: on a stick in a safe, not in the site's folder.

    Returns:
        The public half, 32 bytes in hex.

    Raises:
        DataError: if the passphrase is short, there is a file already, or it cannot be written.
    """
    if len(passphrase) < MINIMUM_PASSPHRASE:
        raise DataError(f"Expected a passphrase of {MINIMUM_PASSPHRASE} characters or more")
    key = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase.encode())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    try:
        write_new(place, pem, mode=0o600)
    except FileExistsError:
        raise DataError(
            f"Expected no file at {place}: a key is never replaced, choose another name"
        ) from None
    except OSError as error:
        raise DataError(f"{place} cannot be written: {refusal(error)}") from None
    return key.public_key().public_bytes_raw().hex()


def load(place: Path, *, passphrase: str) -> Ed25519PrivateKey:
    """Open a key.

    Raises:
        DataError: if there is no such file, or it holds something else.
        VerificationError: if the passphrase does not open it.
    """
    try:
        key = load_pem_private_key(place.read_bytes(), password=passphrase.encode())
    except OSError as error:
        raise DataError(f"Expected the officer's key at {place}: {error.strerror}") from None
    except TypeError:
        raise DataError(
            f"Expected a key in {place} that a passphrase protects, got one without: make one with "
            f"`synofed site policy officer-key`"
        ) from None
    except ValueError:
        raise VerificationError(f"The passphrase does not open {place}, or it holds no key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise DataError(f"Expected an Ed25519 key in {place}, got another kind")
    return key


def pinned(folder: Path) -> str | None:
    """The public half that a site keeps, in hex; ``None`` before the first.

    Raises:
        VerificationError: if the file holds no such key.
    """
    place = path(folder)
    try:
        key = load_pem_public_key(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise VerificationError(f"Expected the officer's public key in {place}: restore it from a backup")
    return key.public_bytes_raw().hex()


def pin(folder: Path, public_key: str) -> None:
    """Keep a public half.

    Raises:
        StorageError: if it cannot be written.
    """
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    atomic.write(path(folder), pem, mode=0o644)


def spoken(public_key: str) -> str:
    """A short form of a public key, to be compared by eye."""
    digest = hashlib.sha256(bytes.fromhex(public_key)).hexdigest()[:16]
    return "-".join(digest[start : start + 4] for start in range(0, 16, 4))
