"""The reading room of a site: what its readers drew, graded and excluded, kept at once.

``<site folder>/reading/events.jsonl`` says all that happened, who did it and when; ``regions.csv`` and
``readings.csv`` beside it are what came of it, for training (:mod:`client.data.tables.reading_room`). They are
written anew from the events whenever they would say something else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from client.data.tables.manifest import REASONS
from client.data.tables.reading_room import (
    FOLDER,
    READING_COLUMNS,
    READINGS,
    REGION_COLUMNS,
    REGIONS,
)
from client.files import atomic, lock
from client.reading.events import Events
from client.reading.worklist import Scheme
from common.errors import ConfigurationError, DataError
from common.exam import Roi
from common.text import csv_text

QUALITIES = ("good", "fair", "poor")
LONGEST_NAME, LONGEST_COMMENT = 80, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one reader says of one exam.

    Attributes:
        grades: measurement -> grade; those that cannot be given are left out.
        quality: one of ``QUALITIES``, or empty.
        reasons: of ``REASONS``.
        excluded: whether the exam shall not be used.
        assisted: whether the ensemble's answer was seen before these grades were given.
        time: when it was given, ISO 8601.
    """

    grades: Mapping[str, int]
    quality: str = ""
    reasons: tuple[str, ...] = ()
    excluded: bool = False
    comment: str = ""
    assisted: bool = False
    time: str = ""

    def facts(self) -> dict[str, object]:
        """All of it but its time, as JSON's types."""
        return {
            "grades": dict(self.grades),
            "quality": self.quality,
            "reasons": list(self.reasons),
            "excluded": self.excluded,
            "comment": self.comment,
            "assisted": self.assisted,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A region that was drawn; ``None``: the reader took it away, and the manifest's counts again."""

    roi: Roi | None
    reader: str
    time: str


def reader_name(text: str) -> str:
    """A reader's name as it is kept.

    Raises:
        ConfigurationError: if it is none.
    """
    name = " ".join(text.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(f"Expected a name of 1 to {LONGEST_NAME} letters, got {text[:100]!r}")
    return name


class ReadingRoom:
    """What was done so far, and the way to do more; one for all who read at a site."""

    def __init__(self, site: Path, scheme: Scheme) -> None:
        self.scheme = scheme
        self.drawn: dict[tuple[str, str], Drawn] = {}
        self.readings: dict[tuple[str, str], Reading] = {}
        """(exam, reader) -> the last one."""
        self.shown: set[tuple[str, str]] = set()
        """(exam, reader) to whom the ensemble's answer was shown."""
        self._site = site
        self._events = Events(site / FOLDER / "events.jsonl")
        self._lock = threading.RLock()
        with self._alone():
            self._write_tables()

    def refresh(self) -> None:
        """Take in what other processes did."""
        with self._lock:
            for event in self._events.new():
                self._take(event)

    def draw(self, exam_id: str, image: str, roi: Roi | None, *, reader: str) -> None:
        """Keep a region; ``None`` takes away what was drawn."""
        box = "" if roi is None else roi.text
        with self._alone():
            self._events.add("region", {"exam_id": exam_id, "image": image, "roi": box, "reader": reader})
            self.refresh()
            self._write_tables()

    def read(self, exam_id: str, reading: Reading, *, reader: str) -> Reading:
        """Keep a reading, in place of the reader's last one of this exam.

        Returns:
            It, with its time, and whether the ensemble's answer was seen before it.

        Raises:
            DataError: if it cannot be: a grade that there is not, an impossible combination, no grade without an
                exclusion.
        """
        self._check(reading)
        with self._alone():
            before = self.readings.get((exam_id, reader))
            seen = (exam_id, reader) in self.shown
            # Grades that stand since before the answer was shown were given without it.
            kept = before is not None and not before.assisted and before.grades == reading.grades
            given = replace(reading, assisted=seen and not kept)
            self._events.add("reading", {"exam_id": exam_id, "reader": reader, **given.facts()})
            self.refresh()
            self._write_tables()
            return self.readings[exam_id, reader]

    def show(self, exam_id: str, *, reader: str) -> None:
        """Note that a reader is about to see the ensemble's answer."""
        with self._alone():
            if (exam_id, reader) not in self.shown:
                self._events.add("shown", {"exam_id": exam_id, "reader": reader})
                self.refresh()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Alone among threads and processes, with all that others did taken in."""
        with self._lock, lock.locked(self._site / FOLDER / ".lock"):
            self.refresh()
            yield

    def _check(self, reading: Reading) -> None:
        for name, grade in reading.grades.items():
            if not 0 <= grade < self.scheme.measurements.get(name, 0):
                raise DataError(
                    f"Expected grades of {', '.join(self.scheme.measurements)}, got {name} {grade}"
                )
        if not self.scheme.can_be(reading.grades):
            pair = " with ".join(f"{name} {grade}" for name, grade in reading.grades.items())
            raise DataError(f"Expected grades that can be together, got {pair}")
        if not reading.grades and not reading.excluded:
            raise DataError("Expected a grade, or the exam to be excluded")
        if reading.quality not in ("", *QUALITIES) or not set(reading.reasons) <= set(REASONS):
            raise DataError(
                f"Expected a quality of {', '.join(QUALITIES)} and reasons of {', '.join(REASONS)}"
            )
        if reading.excluded and not reading.reasons and not reading.comment:
            raise DataError("Expected a reason or a comment with an exclusion")
        if len(reading.comment) > LONGEST_COMMENT:
            raise DataError(f"Expected a comment of at most {LONGEST_COMMENT} letters")

    def _take(self, event: Mapping[str, Any]) -> None:
        exam_id, reader, kind = event.get("exam_id", ""), event.get("reader", ""), event["event"]
        if kind == "region":
            roi = Roi.parse(event["roi"]) if event["roi"] else None
            self.drawn[exam_id, event["image"]] = Drawn(roi=roi, reader=reader, time=event["time"])
        elif kind == "reading":
            self.readings[exam_id, reader] = Reading(
                grades=event["grades"],
                quality=event["quality"],
                reasons=tuple(event["reasons"]),
                excluded=event["excluded"],
                comment=event["comment"],
                assisted=event["assisted"],
                time=event["time"],
            )
        elif kind == "shown":
            self.shown.add((exam_id, reader))

    def _write_tables(self) -> None:
        if not self._events.path.exists():
            return  # tables that somebody else made are not ours to replace
        regions = [
            (exam, image, d.roi.text, d.reader, d.time)
            for (exam, image), d in sorted(self.drawn.items())
            if d.roi is not None
        ]
        names = tuple(self.scheme.measurements)
        readings = [
            (
                exam, reader, "yes" if r.assisted else "no", r.quality,
                ("; ".join(r.reasons) or "see comment") if r.excluded else "", " ".join(r.comment.split()), r.time,
                *(r.grades.get(name, "") for name in names),
            )
            for (exam, reader), r in sorted(self.readings.items())
        ]  # fmt: skip
        _replace(self._site / REGIONS, REGION_COLUMNS, regions)
        _replace(self._site / READINGS, (*READING_COLUMNS, *names), readings)


def _replace(path: Path, columns: tuple[str, ...], rows: Sequence[Sequence[str | int]]) -> None:
    """Write a table if it says something else; none where there are no rows."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    content = csv_text.table(columns, rows).encode()
    if not path.exists() or path.read_bytes() != content:
        atomic.write(path, content)
