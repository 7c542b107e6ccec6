"""A site's pages, all together."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from fastapi import APIRouter

from client.site.site import Site

PAGES = (
    {"href": "/", "title": "Exams"},
    {"href": "/officer.html", "title": "Officer"},
    {"href": "/campaigns.html", "title": "Campaigns"},
)


def pages(
    site: Site, *, ensemble: Path | None, study: Path | None
) -> tuple[Sequence[APIRouter], Sequence[Traversable], tuple[str, ...]]:
    """What a site's pages are made of.

    Args:
        site: the site.
        ensemble: a run's folder, whose networks assist readers; ``None``: what the site received last, if anything.
        study: a reader study's file: then there are its pages alone.

    Returns:
        What pages ask for, the pages, and for whom links are made.
    """
    router = APIRouter()

    @router.get("/desk")
    def desk() -> dict[str, object]:
        return {"title": site.name, "pages": list(PAGES)}

    return [router], [files("client.desk").joinpath("pages")], ("",)
