"""Receipts: what a site signs about every reply that leaves it, and how anybody checks it.

A receipt names the request, the hash of what left, and the place of the reply in the site's own log. Whoever
holds receipts can therefore tell later whether that log was shortened, rewritten or put back from a copy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from common.errors import UpdateError, VerificationError

ENSEMBLE = "ensemble"
"""The group of the receipt by which a site acknowledges its ensemble."""
SUM = "sum"
"""Begins the group of receipts of those phases of a secure sum into which no patient's data go."""
DOMAIN = b"synofed receipt 1\n"
"""Stands before what is signed, so that a signature can never pass for one over something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a site says about one reply.

    Attributes:
        site: the site's name.
        campaign: the campaign's name.
        plan_hash: the plan that the site agreed to.
        request_id: the request that was answered.
        server_round: its round; 0 but for what patients' data go into.
        group: its group of networks; empty for the answer to a plan, :data:`ENSEMBLE` for an acknowledgement, and
            begun with :data:`SUM` for a phase of a secure sum without patients' data.
        reply_hash: SHA-256 over all that the reply holds, as encoded.
        sequence: number of the reply's entry in the site's log, from 1.
        log_head: hash of that entry, which covers all entries before it.
        policy_hash: keyed hash of the site's policy at that moment; tells others only whether it changed.
        version: the site's version of synofed.
        ledger_sequence: number of the last entry in the site's privacy ledger; 0: nothing is booked there.
        ledger_head: hash of that entry, which covers all entries before it.
        signature: Ed25519 over :func:`payload`, in hex; empty before it is signed.
    """

    site: str
    campaign: str
    plan_hash: str
    request_id: str
    server_round: int
    group: str
    reply_hash: str
    sequence: int
    log_head: str
    policy_hash: str
    version: str
    ledger_sequence: int = 0
    ledger_head: str = "0" * 64
    signature: str = ""


FIELDS: Mapping[str, type] = {
    field.name: int if field.name in ("server_round", "sequence", "ledger_sequence") else str
    for field in fields(Receipt)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A receipt as the centre keeps it, one line of ``receipts/<site>.jsonl``.

    Attributes:
        received: when it came, ISO 8601.
        public_key: the key that it was checked with, in hex.
        receipt: the receipt.
    """

    received: str
    public_key: str
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a reply holds, but for its receipt.

    Attributes:
        hash: SHA-256 over names, numbers and arrays as encoded, in hex.
        size_bytes: of the arrays.
    """

    hash: str
    size_bytes: int

    @classmethod
    def of(cls, parts: Iterable[tuple[object, bytes]]) -> Contents:
        """Hash parts in their order, each a header of JSON's types and bytes; bytes are not copied.

        Both go in with their lengths, so that no two contents give the same stream.

        Raises:
            UpdateError: if a header holds something else.
        """
        digest, size_bytes = hashlib.sha256(), 0
        for header, data in parts:
            for part in (json.dumps(header, sort_keys=True, default=_refuse).encode(), data):
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
            size_bytes += len(data)
        return cls(hash=digest.hexdigest(), size_bytes=size_bytes)


def payload(receipt: Receipt) -> bytes:
    """The bytes that are signed: all fields but the signature, as canonical JSON."""
    content = asdict(receipt)
    del content["signature"]
    return DOMAIN + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def verify(receipt: Receipt, public_key: str) -> None:
    """Check a receipt's signature.

    Args:
        receipt: the receipt.
        public_key: Ed25519, 32 bytes in hex.

    Raises:
        VerificationError: if it was not signed with that key, or was changed since.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(receipt.signature), payload(receipt))
    except (InvalidSignature, ValueError):
        raise VerificationError(
            f"Expected receipt {receipt.sequence} of {receipt.site} to be signed with key {public_key:.16}, its "
            f"signature does not fit: it was changed, or signed by somebody else"
        ) from None


def from_fields(content: Mapping[str, object]) -> Receipt:
    """A receipt from its fields.

    Raises:
        VerificationError: if one is missing, unknown or of another type.
    """
    if set(content) != set(FIELDS):
        raise VerificationError(f"Expected a receipt with {sorted(FIELDS)}, got {sorted(content)}")
    wrong = [name for name, kind in FIELDS.items() if type(content[name]) is not kind]
    if wrong:
        raise VerificationError(f"Expected a receipt's {', '.join(wrong)} to be of other types")
    return Receipt(**content)  # type: ignore[arg-type]


def dump(kept: Kept) -> str:
    """One line of JSON, without its end."""
    return json.dumps(asdict(kept), separators=(",", ":"))


def parse(line: str) -> Kept:
    """Undo :func:`dump`.

    Raises:
        VerificationError: if the line is not a receipt that was kept.
    """
    try:
        content = json.loads(line)
        received, public_key = str(content["received"]), str(content["public_key"])
        return Kept(received=received, public_key=public_key, receipt=from_fields(content["receipt"]))
    except (ValueError, KeyError, TypeError):
        raise VerificationError(f"Expected a receipt that was kept, got {line:.60}") from None


def _refuse(value: object) -> str:
    raise UpdateError(f"Expected text and numbers in a reply, got {type(value).__name__}")
