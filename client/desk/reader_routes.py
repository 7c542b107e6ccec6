"""What the reader's pages ask for: the worklist, an exam and its pictures, and to keep what its reader does."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from client.data.tables.manifest import REASONS
from client.desk.exam_page import exam_page, png, roi_of
from client.reading.assistant import Assistance
from client.reading.opened import Exams
from client.reading.room import QUALITIES, Reading, reader_name
from common.errors import ConfigurationError, PolicyError
from common.machine import desk
from common.sections.section import Section
from common.text.notices import RESEARCH_ONLY


class Name(Section):
    """Who reads."""

    name: Annotated[str, Field(max_length=500)]


class Region(Section):
    """A region of an image; none: the manifest's."""

    image: Annotated[str, Field(max_length=200)]
    roi: Annotated[str, Field(max_length=100)] | None


class Grading(Section):
    """A reading, as the page has it."""

    grades: dict[Annotated[str, Field(max_length=200)], Annotated[int, Field(ge=0, le=100)]]
    quality: Annotated[str, Field(max_length=20)] = ""
    reasons: Annotated[tuple[str, ...], Field(max_length=len(REASONS))] = ()
    excluded: bool = False
    comment: Annotated[str, Field(max_length=10_000)] = ""


def routes(exams: Exams, assistance: Assistance) -> APIRouter:
    """The reader's routes.

    Args:
        exams: of the site.
        assistance: what readers can ask.
    """
    router, room = APIRouter(), exams.room

    @router.get("/reader")
    def reader(request: Request) -> dict[str, object]:
        return {
            "name": desk.session(request).name,
            "measurements": dict(room.scheme.measurements),
            "combinations": room.scheme.combinations,
            "reasons": REASONS,
            "qualities": QUALITIES,
            "assistance": assistance.there,
            "notice": RESEARCH_ONLY,
        }

    @router.post("/reader")
    def name(request: Request, given: Name) -> dict[str, str]:
        session = desk.session(request)
        if session.person:
            raise PolicyError(f"This link was made for {session.person}, who reads here and nobody else")
        session.name = reader_name(given.name)
        return {"name": session.name}

    @router.get("/exams")
    def worklist(request: Request) -> list[dict[str, object]]:
        mine = _reader(request)
        room.refresh()
        return [
            {
                "token": exam.token,
                "exam": exam.exam_id,
                "patient": exam.patient_id,
                **exam.about,
                "images": list(exam.images),
                "problem": exam.problem,
                "state": _state(room.readings.get((exam.exam_id, mine))),
            }
            for exam in exams.all().values()
        ]

    @router.get("/exams/{token}")
    def one(request: Request, token: str) -> dict[str, object]:
        mine = _reader(request)
        room.refresh()
        exam = exams.exam(token)
        reading = room.readings.get((exam.exam_id, mine))
        return {
            "exam": exam.exam_id,
            "patient": exam.patient_id,
            **exam.about,
            **exam_page(exams, exam),
            "reading": reading and _as_json(reading),
            "shown": (exam.exam_id, mine) in room.shown,
        }

    @router.get("/exams/{token}/images/{image}")
    def picture(request: Request, token: str, image: str, frame: int = 1) -> Response:
        _reader(request)
        return png(exams.frame(exams.exam(token), image, frame).png)

    @router.post("/exams/{token}/region")
    def draw(request: Request, token: str, region: Region) -> dict[str, object]:
        exam = exams.exam(token)
        shown = exams.frame(exam, region.image, 1)
        roi = None if region.roi is None else roi_of(region.roi, shown)
        room.draw(exam.exam_id, region.image, roi, reader=_reader(request))
        return exam_page(exams, exam)

    @router.post("/exams/{token}/reading")
    def grade(request: Request, token: str, given: Grading) -> dict[str, object]:
        reading = Reading(**given.model_dump())
        return _as_json(room.read(exams.exam(token).exam_id, reading, reader=_reader(request)))

    @router.post("/exams/{token}/answer")
    def answer(request: Request, token: str) -> dict[str, object]:
        mine, exam = _reader(request), exams.exam(token)
        found = assistance.assistant.ask(exams.regions(exam))
        room.show(exam.exam_id, reader=mine)
        return {
            **found.answer,
            "ensemble": assistance.assistant.name,
            "heatmaps": list(found.heatmaps),
            "explained": found.explained,
            "machine_known": assistance.assistant.knows(exam.about["device"]),
        }

    @router.get("/exams/{token}/heatmaps/{image}")
    def heatmap(request: Request, token: str, image: str) -> Response:
        exam = exams.exam(token)
        if (exam.exam_id, _reader(request)) not in room.shown:
            raise PolicyError("Expected the ensemble's answer to be asked for first")
        return png(assistance.assistant.ask(exams.regions(exam)).heatmaps.get(image, b""))

    return router


def _reader(request: Request) -> str:
    name = desk.session(request).name
    if not name:
        raise ConfigurationError("Expected your name first: it stands beside all that you do here")
    return name


def _state(reading: Reading | None) -> str:
    if reading is None:
        return "new"
    return "excluded" if reading.excluded else "graded"


def _as_json(reading: Reading) -> dict[str, object]:
    return {**reading.facts(), "time": reading.time}
