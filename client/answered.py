"""Which rounds of an approved campaign were asked for: each network's round once, whatever the request is called.

Without this, a centre could ask for one round again and again under new ids, from weights of its choice, and get more
out of a site than the rounds that were approved. A second run of the same plan needs a second approval.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from client import atomic, campaigns
from common.errors import PolicyError, UnapprovedError


def claim(
    site_folder: Path, plan_hash: str, *, networks: Iterable[str], server_round: int, request_id: str
) -> None:
    """Note that a request asks for a round of some networks, before anything of it leaves.

    Raises:
        UnapprovedError: if another request has asked for the round of one of them since the approval.
        PolicyError: if what was noted cannot be read.
        StorageError: if it cannot be written.
    """
    place = _path(site_folder, plan_hash)
    known = _read(place)
    keys = [f"{server_round}/{name}" for name in networks]
    others = sorted(key for key in keys if known.get(key, request_id) != request_id)
    if others:
        raise UnapprovedError(
            f"Round {others[0]} of campaign {plan_hash[:12]} was asked for before, by another request: a second run "
            f"of a plan has to be approved again with `synofed site campaigns approve`"
        )
    if not all(key in known for key in keys):
        atomic.write(place, json.dumps(known | dict.fromkeys(keys, request_id)).encode())


def forget(site_folder: Path, plan_hash: str) -> None:
    """Begin anew: the campaign was approved again."""
    _path(site_folder, plan_hash).unlink(missing_ok=True)


def _path(site_folder: Path, plan_hash: str) -> Path:
    return campaigns.folder(site_folder, plan_hash) / "answered.json"


def _read(place: Path) -> dict[str, str]:
    try:
        content = json.loads(place.read_bytes())
        return {str(key): str(request_id) for key, request_id in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        raise PolicyError(
            f"Expected the rounds that were asked for in {place}: approve the campaign again"
        ) from None
