"""What two sites derive from their keys: masks, and encrypted shares; and what one derives from its seed.

Everything derived covers the attempt, its terms and **all** sites' keys (``roster``): sites that were shown different
keys derive different things, and their shares do not open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import VerificationError
from common.secure_aggregation.messages import KeysReply
from common.secure_aggregation.terms import digest, statement

KEY_BYTES = 32
NONCE_BYTES = 12


def public_key(private: bytes) -> bytes:
    """X25519."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def roster_digest(binding: str, keys: Sequence[KeysReply]) -> str:
    """SHA-256 over the attempt and all sites' keys, in hex."""
    return digest("roster", [binding, [[k.site, k.mask_key.hex(), k.share_key.hex()] for k in keys]])


def lists_digest(roster: str, *, sharers: Sequence[str], survivors: Sequence[str]) -> str:
    """SHA-256 over who made shares and who is in the sum, in hex."""
    return digest("lists", [roster, list(sharers), list(survivors)])


def pair_key(private: bytes, peer: KeysReply, *, roster: str, site: str) -> bytes:
    """The key of the mask that a site has with a peer; the same on both sides."""
    return _derive(_shared(private, peer.mask_key, peer.site), "mask", [roster, *sorted((site, peer.site))])


def self_key(seed: bytes, *, roster: str, site: str) -> bytes:
    """The key of a site's own mask."""
    return _derive(seed, "self", [roster, site])


def commitment(seed: bytes, *, roster: str, site: str) -> bytes:
    """SHA-256 by which a seed is recognised; says nothing of it, as a seed has 256 bits."""
    return hashlib.sha256(statement("commitment", [roster, site, seed.hex()])).digest()


def encrypt(text: bytes, *, private: bytes, peer: KeysReply, roster: str, site: str, nonce: bytes) -> bytes:
    """Shares from ``site`` for a peer: nonce and ChaCha20-Poly1305, bound to both names and the attempt."""
    cipher, about = _cipher(private, peer, roster=roster, sender=site, receiver=peer.site)
    return nonce + cipher.encrypt(nonce, text, about)


def decrypt(ciphertext: bytes, *, private: bytes, peer: KeysReply, roster: str, site: str) -> bytes:
    """Undo :func:`encrypt` at its receiver ``site``.

    Raises:
        VerificationError: if the peer did not make it for this site and attempt, or saw other keys.
    """
    cipher, about = _cipher(private, peer, roster=roster, sender=peer.site, receiver=site)
    try:
        return cipher.decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise VerificationError(
            f"The shares of {peer.site} do not open: they were changed, are another's or another attempt's, or the "
            f"centre showed it other keys"
        ) from None


def _cipher(
    private: bytes, peer: KeysReply, *, roster: str, sender: str, receiver: str
) -> tuple[ChaCha20Poly1305, bytes]:
    way = [roster, sender, receiver]
    key = _derive(_shared(private, peer.share_key, peer.site), "shares", way)
    return ChaCha20Poly1305(key), statement("shares", way)


def _shared(private: bytes, public: bytes, name: str) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise VerificationError(f"Expected an X25519 key of 32 bytes from {name}, got none") from None


def _derive(secret: bytes, kind: str, about: list[str]) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=statement(kind, about)).derive(secret)
