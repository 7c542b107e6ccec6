"""A folder of networks that a site made for itself, laid out as a run's, so that ``synofed score`` reads it.

It is there whole or not at all, and nothing sends from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from client.ensemble import delivery
from client.files import atomic
from common.errors import StorageError
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.settings import Settings
from common.text.notices import RESEARCH_ONLY
from common.version import VERSION


def manifest_of(place: Path) -> Mapping[str, object]:
    """What a folder's manifest says; nothing where it is not there, or no longer whole."""
    try:
        found = json.loads((place / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    named = found.get("networks", {}) if isinstance(found, dict) else {}
    return found if all(network_files.path(place / "networks", n).exists() for n in named) else {}


def write(
    place: Path,
    networks: Sequence[TrainedNetwork],
    settings: Settings,
    *,
    status: str,
    site: str,
    notice: str,
    facts: Mapping[str, object],
) -> Mapping[str, object]:
    """Put networks into a folder, instead of what was there.

    Args:
        place: the folder.
        networks: all of them.
        settings: that they were trained with.
        status: what kind of networks they are.
        site: the site's name.
        notice: what they may be used for.
        facts: what else ``manifest.json`` says of them.

    Returns:
        What ``manifest.json`` says.

    Raises:
        StorageError: if they cannot be written; what was there is there still.
    """
    manifest = {
        "status": status,
        "name": settings.name,
        "site": site,
        "synofed": VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
        "networks": {network.spec.name: delivery.as_json(network.result) for network in networks},
        "notice": [RESEARCH_ONLY, notice],
        "privacy": "trained without noise on this site's patients, to stay here",
    }
    draft = place.with_name(f".{place.name}")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        for network in networks:
            atomic.write(
                network_files.path(draft / "networks", network.spec.name), network_files.encode(network)
            )
        document = settings.model_dump(mode="json", exclude_none=True)
        atomic.write(draft / "config.toml", tomli_w.dumps(document).encode())
        atomic.write(draft / "manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")
        atomic.replace_folder(draft, place)
    except OSError as error:
        raise StorageError(
            f"The site's own networks cannot be kept: {error.strerror}. Free some space, then run the command again"
        ) from None
    return manifest
