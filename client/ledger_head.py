"""Where the site's privacy ledger lies, and where it ends: every receipt says so."""

from __future__ import annotations

from pathlib import Path

from client import chain
from common.hash_chain import Head

NAME = "ledger.jsonl"


def head(folder: Path) -> Head:
    """Where a site's ledger ends; reads no more than its tail and checks nothing.

    Raises:
        VerificationError: if its last line is no entry.
    """
    return chain.head(folder / NAME)
