"""How a campaign ended."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a campaign ended."""

    COMPLETE_ALL_SITES = "COMPLETE_ALL_SITES"
    COMPLETE_SUBSET = "COMPLETE_SUBSET"
    FAILED = "FAILED"
