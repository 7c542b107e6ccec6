"""Seeds derived from names, so that no two networks, sites or rounds share one."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in 0 .. 2**63 - 1 from a sequence of numbers and names (BLAKE2b)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
