"""What sites told of their patients and of a run's ensemble, in the run's folder.

``statistics/<site>.json`` and ``evaluation/<site>.json`` are what a site sent, byte for byte, as its receipts have
it; ``not_evaluated.json`` says why others sent no tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from common.errors import DataError, UpdateError
from common.evaluation.inside import site_statistics, site_tables
from common.evaluation.inside.site_statistics import SiteStatistics
from common.evaluation.inside.site_tables import SiteTables
from common.machine import atomic

Sent = TypeVar("Sent")
FOLDER = "evaluation"
STATISTICS = "statistics"
WITHOUT = "not_evaluated.json"


def has(run: Path, site: str) -> bool:
    """Whether a run has a site's tables."""
    return _path(run, FOLDER, site).exists()


def keep(run: Path, site: str, text: str) -> None:
    """Keep the tables that a site sent.

    Raises:
        OSError: if they cannot be written; nothing of them is then.
    """
    _keep(_path(run, FOLDER, site), text)


def keep_statistics(run: Path, site: str, text: str) -> None:
    """Keep what a site told of its patients; errors as of :func:`keep`."""
    _keep(_path(run, STATISTICS, site), text)


def statistics(run: Path) -> Mapping[str, SiteStatistics]:
    """What sites told of their patients, by site.

    Raises:
        DataError: if it cannot be read.
    """
    return _read_all(run / STATISTICS, site_statistics.parse)


def keep_without(run: Path, reasons: Mapping[str, str]) -> None:
    """Keep why sites sent nothing.

    Raises:
        OSError: if it cannot be written.
    """
    atomic.write(run / WITHOUT, json.dumps(reasons, indent=1).encode() + b"\n")


def tables(run: Path) -> Mapping[str, SiteTables]:
    """The tables that a run has got, by site.

    Raises:
        DataError: if one cannot be read.
    """
    return _read_all(run / FOLDER, site_tables.parse)


def without(run: Path) -> Mapping[str, str]:
    """Site -> why a run has no tables of it.

    Raises:
        DataError: if that cannot be read.
    """
    path = run / WITHOUT
    try:
        return {str(site): str(reason) for site, reason in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"Expected why sites gave no tables in {path}: {error}") from None


def _read_all(folder: Path, parse: Callable[[str], Sent]) -> dict[str, Sent]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, UpdateError) as error:
            raise DataError(f"Expected what a site sent in {path}: {error}") from None
    return found


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    atomic.write(path, text.encode())


def _path(run: Path, folder: str, site: str) -> Path:
    return run / folder / f"{site}.json"
