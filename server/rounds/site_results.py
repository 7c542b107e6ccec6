"""What sites told of a run's ensemble, in the run's folder.

``evaluation/<site>.json`` is what a site sent, byte for byte, as its receipt has it; ``not_evaluated.json`` says why
others sent nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from common.errors import DataError, UpdateError
from common.evaluation import site_tables
from common.evaluation.site_tables import SiteTables
from common.machine import atomic

FOLDER = "evaluation"
WITHOUT = "not_evaluated.json"


def has(run: Path, site: str) -> bool:
    """Whether a run has a site's tables."""
    return _path(run, site).exists()


def keep(run: Path, site: str, text: str) -> None:
    """Keep what a site sent.

    Raises:
        OSError: if it cannot be written; nothing of it is then.
    """
    path = _path(run, site)
    path.parent.mkdir(exist_ok=True)
    atomic.write(path, text.encode())


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
    found = {}
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            found[path.stem] = site_tables.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, UpdateError) as error:
            raise DataError(f"Expected a site's tables in {path}: {error}") from None
    return found


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


def _path(run: Path, site: str) -> Path:
    return run / FOLDER / f"{site}.json"
