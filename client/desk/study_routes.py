"""What a reader study's page asks for: the one exam that its reader has before him, and nothing of whose it is.

Pictures are cut to their region of interest: names, dates and machines stand outside of it. Of the ensemble's answer
nothing leaves before the reader's own grades are locked, where the design asks for them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from secrets import compare_digest
from threading import Thread
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse
from pydantic import Field

from client.data.tables.tables import DISCUSSION
from client.desk.exam_page import png
from client.reading import adjudication, pictures, study_table
from client.reading.assistant import Assistance
from client.reading.opened import Exams
from client.reading.progress import Progress, Task, now
from client.reading.worklist import Listed
from common.errors import PolicyError, SynofedError
from common.evaluation.readers import WITH, WITHOUT
from common.machine import desk
from common.sections.section import Section
from common.text.notices import RESEARCH_ONLY

Grades = dict[Annotated[str, Field(max_length=200)], Annotated[int, Field(ge=0, le=100)]]
Seconds = Annotated[float, Field(ge=0)]


class Chosen(Section):
    """Grades of the exam in sight, and the time spent on it."""

    token: Annotated[str, Field(max_length=100)]
    condition: Annotated[str, Field(max_length=20)]
    grades: Grades
    seconds: Seconds = 0.0
    hidden_seconds: Seconds = 0.0


class Settled(Section):
    """Grades that were settled; none: the readers came to no answer."""

    token: Annotated[str, Field(max_length=100)]
    grades: Grades | None


def people(progress: Progress) -> tuple[str, ...]:
    """For whom a study's links are made."""
    asked = progress.design.file.adjudication
    return (*progress.design.file.readers, *((DISCUSSION, asked.decides) if asked else ()))


class _Study:
    """One study, as its pages see it."""

    def __init__(self, exams: Exams, progress: Progress, assistance: Assistance) -> None:
        self.exams, self.progress, self.assistance = exams, progress, assistance

    def listed(self, exam_id: str) -> Listed:
        return next(exam for exam in self.exams.all().values() if exam.exam_id == exam_id)

    def task(self, request: Request) -> Task:
        return self.progress.show(self.reader(request), now=now())

    def reader(self, request: Request) -> str:
        person = desk.session(request).person
        if person not in self.progress.design.file.readers:
            raise PolicyError("This link is not a reader's")
        return person

    def checked(self, request: Request, token: str) -> Task:
        """The reader's task, if it is of the exam that the page shows."""
        task = self.task(request)
        if not compare_digest(self.listed(task.exam_id).token, token):
            raise PolicyError("This exam is locked already, or comes later: load the page again")
        return task

    def page(self, exam_id: str) -> dict[str, object]:
        exam = self.listed(exam_id)
        images = []
        for name in exam.images:
            shown, roi = self.exams.frame(exam, name, 1), self.exams.regions(exam)[name].roi
            images.append(
                {
                    "name": name,
                    "width": shown.width if roi is None else roi.width,
                    "height": shown.height if roi is None else roi.height,
                    "frames": shown.frames,
                    "spacing_mm": exam.spacing_mm.get(name),
                    "region": None,
                    "suggested": None,
                }
            )
        return {"token": exam.token, "images": images}

    def picture(self, exam_id: str, image: str, frame: int) -> Response:
        exam = self.listed(exam_id)
        shown = self.exams.frame(exam, image, frame)
        return png(pictures.png(shown.part(self.exams.regions(exam)[image].roi)))

    def prepare(self, reader: str, task: Task) -> None:
        """Ask the ensemble about this exam and the next in the background, where the session has assistance."""
        sitting = self.progress.design.sittings(reader)[task.session - 1]
        if WITH in sitting.conditions:
            soon = [self.listed(exam) for exam in sitting.exams[task.done : task.done + 2]]
            Thread(target=self._ask, args=(soon,), daemon=True).start()

    def _ask(self, soon: Sequence[Listed]) -> None:
        for exam in soon:
            with suppress(SynofedError):  # whoever asks for it is told
                self.assistance.assistant.ask(self.exams.regions(exam))

    def looks_at(self, request: Request) -> str:
        """The exam that somebody has before him, a reader or whoever settles."""
        person = desk.session(request).person
        if person in self.progress.design.file.readers:
            return self.task(request).exam_id
        case = adjudication.case(self.progress, person)
        if case is None:
            raise PolicyError("There is nothing to look at now: load the page again")
        return case.exam_id

    def ensemble(self, exam_id: str) -> dict[str, int]:
        answered = self.assistance.assistant.ask(self.exams.regions(self.listed(exam_id)))
        measurements = answered.answer["measurements"]
        assert isinstance(measurements, dict), "of our own making"
        return {name: int(found["decision"]) for name, found in measurements.items()}


def routes(exams: Exams, progress: Progress, assistance: Assistance) -> APIRouter:
    """The routes of a study.

    Args:
        exams: of the site.
        progress: the study.
        assistance: what aided readers see.
    """
    router, study = APIRouter(), _Study(exams, progress, assistance)

    @router.get("/study")
    def state(request: Request) -> dict[str, object]:
        person = desk.session(request).person
        about: dict[str, object] = {
            "name": progress.design.file.name,
            "person": person,
            "measurements": dict(progress.scheme.measurements),
            "combinations": progress.scheme.combinations,
            "notice": RESEARCH_ONLY,
        }
        if not person:
            return about | {"organiser": True}
        if person not in progress.design.file.readers:
            return about | _settling(study, person)
        task = progress.task(person, now=now())
        if not isinstance(task, Task):
            return about | {"rest": {"until": _text(task.until), "session": task.session}}
        task = progress.show(person, now=now())
        study.prepare(person, task)
        told = {name: value for name, value in asdict(task).items() if name != "exam_id"}
        return about | {"task": {**told, **study.page(task.exam_id)}}

    @router.get("/study/images/{image}")
    def picture(request: Request, image: str, frame: int = 1) -> Response:
        return study.picture(study.looks_at(request), image, frame)

    @router.post("/study/changed")
    def changed(request: Request, chosen: Chosen) -> dict[str, bool]:
        study.checked(request, chosen.token)
        times = {"seconds": chosen.seconds, "hidden_seconds": chosen.hidden_seconds}
        progress.change(study.reader(request), chosen.grades, **times, now=now())
        return {"kept": True}

    @router.post("/study/graded")
    def graded(request: Request, chosen: Chosen) -> dict[str, bool]:
        task, reader = study.checked(request, chosen.token), study.reader(request)
        times = {"seconds": chosen.seconds, "hidden_seconds": chosen.hidden_seconds}
        progress.grade(reader, task.exam_id, chosen.condition, chosen.grades, **times, now=now())
        return {"kept": True}

    @router.post("/study/answer")
    def answer(request: Request) -> dict[str, object]:
        task = _aided(study, request)
        exam = study.listed(task.exam_id)
        found = assistance.assistant.ask(exams.regions(exam))
        return {
            **found.answer,
            "ensemble": "",
            "heatmaps": list(found.heatmaps),
            "explained": found.explained,
            "machine_known": assistance.assistant.knows(exam.about["device"]),
        }

    @router.get("/study/heatmaps/{image}")
    def heatmap(request: Request, image: str) -> Response:
        exam = study.listed(_aided(study, request).exam_id)
        return png(assistance.assistant.ask(exams.regions(exam)).heatmaps.get(image, b""))

    @router.post("/study/settled")
    def settled(request: Request, given: Settled) -> dict[str, bool]:
        exam_id = study.looks_at(request)
        if not compare_digest(study.listed(exam_id).token, given.token):
            raise PolicyError("This exam is settled already, or comes later: load the page again")
        adjudication.settle(progress, desk.session(request).person, exam_id, given.grades)
        return {"kept": True}

    return router


def organiser_routes(exams: Exams, progress: Progress, assistance: Assistance) -> APIRouter:
    """What the study's organiser asks for, whose link is nobody's: how far each reader is, and the table."""
    router = APIRouter(dependencies=[Depends(desk.keeps_out_named)])
    study = _Study(exams, progress, assistance)

    @router.get("/study/progress")
    def standing() -> list[dict[str, object]]:
        progress.refresh()
        return [_standing(progress, reader) for reader in progress.design.file.readers]

    @router.get("/study/readings.csv")
    def table() -> Response:
        by_id = {exam.exam_id: exam for exam in exams.all().values()}
        path = study_table.write(progress, by_id, study.ensemble if assistance.there else None)
        return FileResponse(path, media_type="text/csv", filename=f"{progress.design.file.name}.csv")

    return router


def _standing(progress: Progress, reader: str) -> dict[str, object]:
    task = progress.task(reader, now=now())
    mine = [read for read in progress.reads if read.reader == reader]
    planned = sum(len(s.exams) * len(s.conditions) for s in progress.design.sittings(reader))
    waits = None if isinstance(task, Task) else task.until
    return {
        "reader": reader,
        "read": len(mine),
        "planned": planned,
        "session": task.session,
        "waits": _text(waits),
        "last": max((read.time for read in mine), default=""),
        "minutes": {
            condition: round(sum(r.seconds for r in mine if r.condition == condition) / 60, 1)
            for condition in (WITHOUT, WITH)
        },
    }


def _settling(study: _Study, person: str) -> dict[str, object]:
    try:
        case = adjudication.case(study.progress, person)
    except PolicyError as error:
        return {"waits": str(error)}
    if case is None:
        return {"rest": {"until": None, "session": 0}}
    grades = {name: dict(given) for name, given in case.grades.items()}
    page = study.page(case.exam_id)
    return {"case": {"done": case.done, "total": case.total, "grades": grades, **page}}


def _aided(study: _Study, request: Request) -> Task:
    task = study.task(request)
    if task.condition != WITH:
        raise PolicyError("The ensemble's answer is shown when your own grades are locked")
    return task


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="minutes")
