"""The centre's pages: how its campaigns go."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from fastapi import APIRouter

from common.errors import ConfigurationError
from server.desk import centre_routes
from server.desk.centre_routes import Shown
from server.federation.home import Home


def pages(folder: Path) -> tuple[Sequence[APIRouter], Sequence[Traversable], tuple[str, ...]]:
    """What the pages of a centre, or of one run, are made of.

    Args:
        folder: a run's, or a centre's.

    Returns:
        What pages ask for, the pages, and for whom links are made.

    Raises:
        ConfigurationError: if there is neither.
    """
    return [centre_routes.router(_shown(folder))], [files("server.desk").joinpath("pages")], ("",)


def _shown(folder: Path) -> Shown:
    if Home(folder).settings_file.is_file():
        return centre_routes.of_home(Home(folder))
    if (folder / "run.json").is_file() or (folder / "manifest.json").is_file():
        return centre_routes.of_run(folder)
    raise ConfigurationError(f"Expected the folder of a site, of a run or of a centre, got {folder}")
