"""A reader study as it goes: what each reader is to do next, and all that happened, kept at once.

``<site folder>/reading/studies/<name>/events.jsonl`` has every event in the order in which it came; what a reader has
before him follows from it, so that a reload, a crash or another machine goes on where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from client.data.tables.reading_room import FOLDER
from client.files import lock
from client.reading.events import Events
from client.reading.study import Design, Sitting
from client.reading.worklist import Scheme
from common.errors import CampaignError, DataError, PolicyError
from common.evaluation.readers import WITH, WITHOUT

SHORTEST_S, LONGEST_S = 0.1, 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One finished reading.

    Attributes:
        order: number of the exam in its session, from 1.
        seconds: with the exam in sight, from showing it to locking the grades.
        hidden_seconds: of the same time, while the page was not in sight.
    """

    exam_id: str
    reader: str
    session: int
    condition: str
    grades: Mapping[str, int]
    seconds: float
    hidden_seconds: float
    order: int
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a reader has before him.

    Attributes:
        condition: without or with the ensemble's answer.
        done: exams of the session that are finished.
        total: exams of the session.
        draft: grades as they were chosen last.
        seconds: spent on it so far, before this page was opened.
        hidden_seconds: likewise.
    """

    exam_id: str
    session: int
    condition: str
    done: int
    total: int
    draft: Mapping[str, int]
    seconds: float = 0.0
    hidden_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Nothing to read now.

    Attributes:
        until: when the next session may begin; ``None``: all is read.
        session: that comes next, or the last one.
    """

    until: datetime | None
    session: int


class Progress:
    """A study, for all its readers."""

    def __init__(self, site: Path, design: Design, scheme: Scheme) -> None:
        """Open or begin it.

        Raises:
            CampaignError: if it was begun by another file, or over other exams.
        """
        self.design, self.scheme = design, scheme
        self.folder = site / FOLDER / "studies" / design.file.name
        self.reads: list[Read] = []
        self.discussed: dict[str, Mapping[str, int]] = {}
        """Exam -> what its readers settled together; empty: they did not come to one answer."""
        self.decided: dict[str, Mapping[str, int]] = {}
        self._drafts: dict[tuple[str, str, int, str], Mapping[str, Any]] = {}
        self._shown: set[tuple[str, str, int, str]] = set()
        self._hash = ""
        self._events = Events(self.folder / "events.jsonl")
        self._lock = threading.RLock()
        with self.alone():
            if not self._hash:
                self.add("study", {"hash": design.hash, "file": design.file.model_dump(mode="json")})
        if self._hash != design.hash:
            raise CampaignError(
                f"The study {design.file.name} was begun by another file, or over other exams, and has readings: "
                f"give this one another name, or put the file back as it was"
            )

    def task(self, reader: str, *, now: datetime) -> Task | Rest:
        """What a reader is to do next."""
        self.refresh()
        finished = {(r.exam_id, r.session, r.condition): r for r in self.reads if r.reader == reader}
        last = max((r.time for r in finished.values()), default="")
        sittings = self.design.sittings(reader)
        for sitting in sittings:
            begun = sitting.number == 1 or any(r.session >= sitting.number for r in finished.values())
            for place, exam in enumerate(sitting.exams):
                for condition in sitting.conditions:
                    if (exam, sitting.number, condition) in finished:
                        continue
                    until = _washed_out(last, self.design.file.washout_days)
                    if not begun and until is not None and now < until:
                        return Rest(until=until, session=sitting.number)
                    return self._task(reader, sitting, exam, condition, place, finished)
        return Rest(until=None, session=sittings[-1].number)

    def show(self, reader: str, *, now: datetime) -> Task:
        """The reader's task, noted as shown.

        Raises:
            PolicyError: if there is none now.
        """
        task = self._current(reader, now)
        if _key(reader, task) not in self._shown:
            with self.alone():
                self.add("shown", {"reader": reader, **_named(task), "order": task.done + 1})
        return task

    def change(
        self, reader: str, grades: Mapping[str, int], *, seconds: float, hidden_seconds: float, now: datetime
    ) -> None:
        """Keep grades as they are chosen, and the time spent.

        Raises:
            PolicyError: if the reader has nothing to read now.
            DataError: if grades are none.
        """
        task = self._current(reader, now)
        self._check(grades)
        facts = {"grades": dict(grades), **_times(seconds, hidden_seconds)}
        with self.alone():
            self.add("changed", {"reader": reader, **_named(task), **facts})

    def grade(
        self,
        reader: str,
        exam_id: str,
        condition: str,
        grades: Mapping[str, int],
        *,
        seconds: float,
        hidden_seconds: float,
        now: datetime,
    ) -> None:
        """Lock the grades of what a reader has before him.

        Raises:
            PolicyError: if it is not that exam in that condition, or was locked already.
            DataError: if a measurement has no grade, or they cannot be together.
        """
        with self.alone():
            task = self._current(reader, now)
            if (task.exam_id, task.condition) != (exam_id, condition):
                raise PolicyError("This exam is locked already, or comes later: load the page again")
            self.check_whole(grades)
            facts = {"grades": dict(grades), "order": task.done + 1, **_times(seconds, hidden_seconds)}
            self.add("graded", {"reader": reader, **_named(task), **facts})

    def check_whole(self, grades: Mapping[str, int]) -> None:
        """Whether grades can be locked.

        Raises:
            DataError: if a measurement has none, or they cannot be together.
        """
        self._check(grades)
        missing = [name for name in self.scheme.measurements if name not in grades]
        if missing:
            raise DataError(f"Expected a grade of {', '.join(missing)}")

    def may_see_answer(self, reader: str, exam_id: str, *, now: datetime) -> bool:
        """Whether a reader has an exam before him with assistance."""
        task = self.task(reader, now=now)
        return isinstance(task, Task) and (task.exam_id, task.condition) == (exam_id, WITH)

    def refresh(self) -> None:
        """Take in what other processes did."""
        with self._lock:
            for event in self._events.new():
                self._take(event)

    def add(self, event: str, facts: Mapping[str, object]) -> None:
        """Keep an event and take it in."""
        self._events.add(event, facts)
        self.refresh()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Alone among threads and processes, with all that others did taken in."""
        with self._lock, lock.locked(self.folder / ".lock"):
            self.refresh()
            yield

    def _task(
        self,
        reader: str,
        sitting: Sitting,
        exam: str,
        condition: str,
        place: int,
        finished: Mapping[tuple[str, int, str], Read],
    ) -> Task:
        task = Task(
            exam_id=exam,
            session=sitting.number,
            condition=condition,
            done=place,
            total=len(sitting.exams),
            draft={},
        )
        draft = self._drafts.get(_key(reader, task))
        if draft is not None:
            times = {name: draft[name] for name in ("seconds", "hidden_seconds")}
            return replace(task, draft=draft["grades"], **times)
        before = finished.get((exam, sitting.number, WITHOUT))
        return replace(task, draft=before.grades) if before is not None and condition == WITH else task

    def _current(self, reader: str, now: datetime) -> Task:
        task = self.task(reader, now=now)
        if isinstance(task, Rest):
            raise PolicyError("There is nothing to read now: load the page again")
        return task

    def _check(self, grades: Mapping[str, int]) -> None:
        wrong = [n for n, g in grades.items() if not 0 <= g < self.scheme.measurements.get(n, 0)]
        if wrong or not self.scheme.can_be(grades):
            raise DataError(f"Expected grades that can be together, got {dict(grades)}")

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "study":
            self._hash = event["hash"]
        elif kind == "discussed":
            self.discussed[event["exam_id"]] = event["grades"] or {}
        elif kind == "decided":
            self.decided[event["exam_id"]] = event["grades"]
        if kind not in ("shown", "changed", "graded"):
            return
        key = (event["reader"], event["exam_id"], int(event["session"]), event["condition"])
        if kind == "shown":
            self._shown.add(key)
        elif kind == "changed":
            self._drafts[key] = event
        else:
            self.reads.append(
                Read(
                    exam_id=key[1], reader=key[0], session=key[2], condition=key[3], grades=event["grades"],
                    seconds=event["seconds"], hidden_seconds=event["hidden_seconds"], order=event["order"],
                    time=event["time"],
                )
            )  # fmt: skip


def now() -> datetime:
    """The present."""
    return datetime.now(UTC)


def _washed_out(last: str, days: int) -> datetime | None:
    return datetime.fromisoformat(last) + timedelta(days=days) if last else None


def _key(reader: str, task: Task) -> tuple[str, str, int, str]:
    return reader, task.exam_id, task.session, task.condition


def _named(task: Task) -> dict[str, object]:
    return {"exam_id": task.exam_id, "session": task.session, "condition": task.condition}


def _times(seconds: float, hidden_seconds: float) -> dict[str, float]:
    """Times as the page measured them, within a day; nobody reads in no time."""
    return {
        "seconds": round(min(max(seconds, SHORTEST_S), LONGEST_S), 1),
        "hidden_seconds": round(min(max(hidden_seconds, 0.0), LONGEST_S), 1),
    }
