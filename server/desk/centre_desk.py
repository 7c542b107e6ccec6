"""The centre's pages: how its campaigns go."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from fastapi import APIRouter

from common.errors import ConfigurationError


def pages(folder: Path) -> tuple[Sequence[APIRouter], Sequence[Traversable], tuple[str, ...]]:
    """What the pages of a centre, or of one run, are made of.

    Args:
        folder: a run's, or a centre's.

    Returns:
        What pages ask for, the pages, and for whom links are made.

    Raises:
        ConfigurationError: if there is neither.
    """
    if not (folder / "manifest.json").is_file():
        raise ConfigurationError(f"Expected the folder of a site, of a run or of a centre, got {folder}")
    router = APIRouter()

    @router.get("/desk")
    def desk() -> dict[str, object]:
        return {"title": folder.name, "pages": [{"href": "/", "title": "Campaigns"}]}

    return [router], [files("server.desk").joinpath("pages")], ("",)
