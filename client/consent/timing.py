"""How long the site's recent rounds took, so that the centre's deadlines can adapt."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median

from client.files import atomic
from client.state import decisions

LATELY = 9


def add(site_folder: Path, plan_hash: str, seconds: float) -> None:
    """Record how long a round of a group took, in ``campaigns/<plan hash>/timing.json``.

    Raises:
        StorageError: if it cannot be written.
    """
    latest = [*_read(site_folder, plan_hash), round(seconds, 3)][-LATELY:]
    atomic.write(_path(site_folder, plan_hash), json.dumps(latest).encode())


def typical(site_folder: Path, plan_hash: str) -> float:
    """The median of the last few rounds in seconds; NaN if there are none."""
    found = _read(site_folder, plan_hash)
    return float(median(found)) if found else math.nan


def _read(site_folder: Path, plan_hash: str) -> list[float]:
    try:
        return [float(seconds) for seconds in json.loads(_path(site_folder, plan_hash).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def _path(site_folder: Path, plan_hash: str) -> Path:
    return decisions.folder(site_folder, plan_hash) / "timing.json"
