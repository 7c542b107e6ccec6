"""Simulated sites that know each other's keys, as hospitals exchange them before secure aggregation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.consent import peers
from client.site import keys
from client.site.site import Site


def pin(folders: Sequence[Path]) -> None:
    """Enter every site's key in ``[peers]`` of all others, where it is absent.

    Raises:
        ConfigurationError: if a site was known by another key before.
    """
    known = {Site.open(folder).name: keys.public_key(folder) for folder in folders}
    for folder in folders:
        own = Site.open(folder).name
        for name, key in known.items():
            if name != own:
                peers.add(Site.open(folder), name, key)
