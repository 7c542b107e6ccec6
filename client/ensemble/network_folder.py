"""A folder of networks that a site made for itself, laid out as a run's, so that ``synofed score`` reads it.

It is there whole or not at all, and nothing sends from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import tomli_w

from client.files import atomic
from common.errors import StorageError
from common.machine import network_files
from common.machine.network_files import TrainedNetwork
from common.settings import Settings


def manifest_of(place: Path) -> Mapping[str, object]:
    """What a folder's manifest says; nothing where it is not there, or no longer whole."""
    try:
        found = json.loads((place / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    named = found.get("networks", {}) if isinstance(found, dict) else {}
    return found if all(network_files.path(place / "networks", n).exists() for n in named) else {}


def write(
    place: Path, networks: Iterable[TrainedNetwork], manifest: Mapping[str, object], settings: Settings
) -> None:
    """Put networks into a folder, instead of what was there.

    Args:
        place: the folder.
        networks: read one by one.
        manifest: what ``manifest.json`` says; ``networks`` has an entry for each.
        settings: of the campaign.

    Raises:
        StorageError: if they cannot be written; what was there is there still.
    """
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
