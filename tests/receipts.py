"""Factories of receipts, signed with a key of their own."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.receipts import Receipt, payload
from common.version import VERSION

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = KEY.public_key().public_bytes_raw().hex()


def make_receipt(
    *,
    site: str = "north",
    campaign: str = "test",
    plan_hash: str = "p" * 64,
    request_id: str = "r" * 32,
    server_round: int = 1,
    group: str = "g",
    reply_hash: str = "a" * 64,
    sequence: int = 1,
    format: int = 2,
    key: Ed25519PrivateKey = KEY,
) -> Receipt:
    """A receipt with a valid signature."""
    receipt = Receipt(
        site=site,
        campaign=campaign,
        plan_hash=plan_hash,
        request_id=request_id,
        server_round=server_round,
        group=group,
        reply_hash=reply_hash,
        sequence=sequence,
        log_head="b" * 64,
        policy_hash="c" * 64,
        version=VERSION,
        format=format,
    )
    return replace(receipt, signature=key.sign(payload(receipt)).hex())
