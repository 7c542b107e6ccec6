"""One reference of several readers' grades: agreed on, settled in discussion, or decided by a further reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from client.data.tables.tables import DISCUSSION
from client.reading.progress import Progress, Rest, now
from client.reading.study import Adjudication
from common.errors import PolicyError
from common.evaluation.readers import WITHOUT

Grades = Mapping[str, int]
AGREED, DISCUSSED, DECIDED = "agreed", "discussed", "decided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An exam that somebody has to look at again.

    Attributes:
        grades: reader -> what he gave without assistance; empty where the one who looks must not know.
    """

    exam_id: str
    done: int
    total: int
    grades: Mapping[str, Grades]


def case(progress: Progress, person: str) -> Case | None:
    """The next exam for discussion, or for who decides; ``None``: none is left.

    Raises:
        PolicyError: if the readers have not finished, or it is nobody's of these.
    """
    asked = _asked(progress, person)
    given = _given(progress, asked)
    divided = [exam for exam in progress.design.exams if _agreed(given[exam], asked) is None]
    if person == DISCUSSION:
        wanted, grades = divided, given
    else:
        left_open = {exam for exam, found in progress.discussed.items() if not found}
        wanted, grades = [exam for exam in divided if exam in left_open], {}
    settled = progress.discussed if person == DISCUSSION else progress.decided
    for exam in wanted:
        if exam not in settled:
            done = sum(one in settled for one in wanted)
            return Case(exam_id=exam, done=done, total=len(wanted), grades=grades.get(exam, {}))
    return None


def settle(progress: Progress, person: str, exam_id: str, grades: Grades | None) -> None:
    """Keep what was settled of the exam that is next; ``None``: the readers did not come to one answer.

    Raises:
        PolicyError: if it is not that exam's turn, or who decides gives no grades.
        DataError: if grades are missing, or cannot be together.
    """
    with progress.alone():
        current = case(progress, person)
        if current is None or current.exam_id != exam_id or (grades is None and person != DISCUSSION):
            raise PolicyError("This exam is settled already, or comes later: load the page again")
        if grades is not None:
            progress.check_whole(grades)
        facts: dict[str, object] = {"exam_id": exam_id, "grades": None if grades is None else dict(grades)}
        progress.add(DISCUSSED if person == DISCUSSION else DECIDED, {"reader": person, **facts})


def reference(progress: Progress) -> dict[str, tuple[str, Grades]]:
    """Exam -> how its reference came about, and the reference; exams that are not settled are left out."""
    asked = progress.design.file.adjudication
    if asked is None or not _finished(progress):
        return {}
    found: dict[str, tuple[str, Grades]] = {}
    for exam, given in _given(progress, asked).items():
        agreed = _agreed(given, asked)
        if agreed is not None:
            found[exam] = AGREED, agreed
        elif progress.discussed.get(exam):
            found[exam] = DISCUSSED, progress.discussed[exam]
        elif exam in progress.decided:
            found[exam] = DECIDED, progress.decided[exam]
    return found


def _asked(progress: Progress, person: str) -> Adjudication:
    asked = progress.design.file.adjudication
    if asked is None or person not in (DISCUSSION, asked.decides):
        raise PolicyError(
            f"The study {progress.design.file.name} asks nobody of this name to settle anything"
        )
    if not _finished(progress):
        raise PolicyError("The readers have not finished: grades are discussed when all of them are locked")
    return asked


def _finished(progress: Progress) -> bool:
    tasks = (progress.task(reader, now=now()) for reader in progress.design.file.readers)
    return all(isinstance(task, Rest) and task.until is None for task in tasks)


def _given(progress: Progress, asked: Adjudication) -> dict[str, dict[str, Grades]]:
    found: dict[str, dict[str, Grades]] = {exam: {} for exam in progress.design.exams}
    for read in progress.reads:
        if read.condition == WITHOUT and read.reader in asked.readers:
            found[read.exam_id].setdefault(read.reader, read.grades)  # a repeated reading is no new opinion
    return found


def _agreed(given: Mapping[str, Grades], asked: Adjudication) -> Grades | None:
    first = given.get(asked.readers[0])
    alike = first is not None and all(given.get(reader) == first for reader in asked.readers)
    return first if alike and first is not None else None
