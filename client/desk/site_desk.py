"""A site's pages, all together."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from fastapi import APIRouter, Depends, Request

from client.desk import campaign_routes, officer_records, officer_routes, reader_routes, study_routes
from client.reading import study as studies
from client.reading import worklist
from client.reading.assistant import Assistance, Assistant
from client.reading.opened import Exams
from client.reading.progress import Progress
from client.reading.room import ReadingRoom, reader_name
from client.site.site import Site
from common.errors import ConfigurationError
from common.machine import desk

PAGES = (
    {"href": "/", "title": "Exams"},
    {"href": "/officer.html", "title": "Officer"},
    {"href": "/campaigns.html", "title": "Campaigns"},
)
ORGANISER = ""
Parts = tuple[Sequence[APIRouter], Sequence[Traversable], tuple[str, ...]]
"""What pages ask for, the pages, and for whom links are made."""


def pages(site: Site, *, assistant: Assistant | None, readers: Sequence[str] = ()) -> Parts:
    """What a site's pages are made of.

    Args:
        site: the site.
        assistant: whom readers ask; ``None``: the ensemble that the site received last, if any.
        readers: who get a link of their own, to the reading room and nothing else.

    Raises:
        ConfigurationError: if a reader's name is none, or stands there twice.
    """
    names = tuple(reader_name(name) for name in readers)
    if len(set(names)) < len(names):
        raise ConfigurationError(f"Expected each reader once, got {', '.join(names)}")
    assistance = Assistance(site, assistant)
    others = APIRouter(dependencies=[Depends(desk.keeps_out_named)])
    others.include_router(officer_routes.router(site.folder))
    others.include_router(officer_records.router(site.folder))
    others.include_router(campaign_routes.router(site))
    routers = [_desk(site.name, PAGES), reader_routes.routes(_exams(site), assistance), others]
    return routers, [files("client.desk").joinpath("pages")], (*names, "")


def study_pages(site: Site, study: Path, *, assistant: Assistant | None) -> Parts:
    """What the pages of a reader study are made of: those of a site are not among them.

    Args:
        site: whose exams are read.
        study: the study's file.
        assistant: whom aided readers ask; ``None``: the ensemble that the site received last.

    Raises:
        ConfigurationError: if the file cannot be used.
        DataError: if it names exams that cannot be read, or there is no ensemble.
        CampaignError: if the study was begun by another file.
    """
    exams, assistance = _exams(site), Assistance(site, assistant)
    readable = [exam.exam_id for exam in exams.all().values() if not exam.problem]
    progress = Progress(site.folder, studies.load(study, readable), exams.room.scheme)
    assert assistance.assistant, "opened now: a study without it would stop at its first aided exam"
    routers = [
        _desk(progress.design.file.name, ({"href": "/", "title": "Study"},)),
        study_routes.organiser_routes(exams, progress, assistance),
        study_routes.routes(exams, progress, assistance),
    ]
    places = [files("client.desk").joinpath("study_page"), files("client.desk").joinpath("pages")]
    return routers, places, (*study_routes.people(progress), ORGANISER)


def _desk(title: str, shown: Sequence[dict[str, str]]) -> APIRouter:
    router = APIRouter()

    @router.get("/desk")
    def about(request: Request) -> dict[str, object]:
        return {"title": title, "pages": list(shown[:1] if desk.session(request).person else shown)}

    return router


def _exams(site: Site) -> Exams:
    return Exams(site, ReadingRoom(site.folder, worklist.scheme(site)))
