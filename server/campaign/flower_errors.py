"""What Flower answers in a site's place, in words that say who can act."""

from __future__ import annotations

from flwr.app import Error
from flwr.common.constant import ErrorCode

from common import fab
from common.version import VERSION


def explained(error: Error) -> str:
    """Why a site's answer did not come."""
    return other_package(error) or f"unreachable (Flower's error {error.code})"


def other_package(error: Error) -> str | None:
    """What to do, where a site refused the package of this version; ``None`` if it did not."""
    if error.code != ErrorCode.INVALID_FAB:
        return None
    version = fab.refused_by(error.reason or "")
    if version == VERSION:
        return f"refuses the package of synofed {VERSION}, though it runs the same version: its own log says more"
    return f"runs synofed {version or 'of another version'}, the centre {VERSION}: bring both to one version"
