"""JSON that is hashed or signed: one text for each content, and one content for each text; signed with Ed25519.

A signature is over a domain and the text: the domain stands before it, so that a signature of one kind can never pass
for one of another. Each kind's domain stands with the kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def canonical(content: object) -> str:
    """The text of a content: names sorted, no spaces, ASCII.

    Raises:
        TypeError: for what JSON cannot hold.
        ValueError: for NaN and infinity.
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(text: str | bytes) -> Any:
    """The content of a text that every reader understands alike, canonical or not.

    Raises:
        ValueError: if it is no JSON, a name stands twice in an object, or a number is not finite: readers differ in
            what they make of these, so what was signed would not be one thing.
    """
    return json.loads(text, object_pairs_hook=_each_once, parse_float=_finite, parse_constant=_finite)


def sign(message: bytes, key: Ed25519PrivateKey) -> str:
    """A signature, in hex."""
    return key.sign(message).hex()


def fits(signature: str, message: bytes, public_key: str) -> bool:
    """Whether a signature is of a message.

    Args:
        signature: in hex; one that is malformed fits nothing.
        message: domain and text.
        public_key: 32 bytes in hex; under one that is malformed nothing fits.
    """
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(
            bytes.fromhex(signature), message
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("Expected each name once in an object of JSON")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"Expected finite numbers in JSON, got {text:.20}")
    return number
