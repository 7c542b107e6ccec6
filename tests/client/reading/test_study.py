"""A reader study keeps its order, its washout, its locks, and whatever happened, over any interruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.tables.rows import read_rows
from client.data.tables.tables import DISCUSSION
from client.reading import adjudication, study_table
from client.reading.progress import Progress, Rest, Task
from client.reading.study import Design, StudyFile, load
from client.reading.worklist import EULAR_OMERACT
from common.errors import CampaignError, ConfigurationError, DataError, PolicyError
from common.evaluation.readers import WITH, WITHOUT

EXAMS = tuple(f"e{number}" for number in range(6))
START = datetime(2030, 1, 1, 9, tzinfo=UTC)
GRADES = {"hypertrophy": 2, "vascularity": 1}


def text(**changes: object) -> str:
    fields: dict[str, object] = {
        "name": "pilot", "design": "sessions", "readers": ["Anna", "Ben", "Carl", "Dora"], "seed": 3,
    } | changes  # fmt: skip
    return "".join(
        f"{name} = {str(value) if not isinstance(value, str) else repr(value)}\n"
        for name, value in fields.items()
    )


def design(tmp_path: Path, **changes: object) -> Design:
    path = tmp_path / "study.toml"
    path.write_text(text(**changes))
    return load(path, EXAMS)


def progress_of(tmp_path: Path, **changes: object) -> Progress:
    return Progress(tmp_path, design(tmp_path, **changes), EULAR_OMERACT)


def read_all(
    progress: Progress, reader: str, now: datetime, grades: Mapping[str, int] = GRADES
) -> list[Task]:
    """Read until there is nothing to read."""
    done = []
    while isinstance(task := progress.task(reader, now=now), Task):
        progress.grade(reader, task.exam_id, task.condition, grades, seconds=7.0, hidden_seconds=1.0, now=now)
        done.append(task)
    return done


@given(
    readers=st.lists(st.sampled_from("ABCDEFGHIJ"), min_size=1, max_size=10, unique=True),
    seed=st.integers(0, 10**6),
    repeated=st.integers(0, len(EXAMS)),
)
def test_half_of_the_readers_begin_aided_and_all_read_everything_in_an_order_of_their_own(
    readers: list[str], seed: int, repeated: int
) -> None:
    file = StudyFile(name="s", design="sessions", readers=tuple(readers), seed=seed, repeated=repeated)
    made = Design(file=file, hash="", exams=EXAMS)
    assert len(made.aided_first) == len(readers) // 2
    again = []
    for reader in readers:
        first, second, *rest = made.sittings(reader)
        assert {first.conditions, second.conditions} == {(WITHOUT,), (WITH,)}
        assert first.conditions == ((WITH,) if reader in made.aided_first else (WITHOUT,))
        assert sorted(first.exams) == sorted(second.exams) == sorted(EXAMS)
        assert [one.conditions for one in rest] == ([(WITHOUT,)] if repeated else [])
        again += [frozenset(one.exams) for one in rest]
        assert made.sittings(reader) == (first, second, *rest)
    assert len(set(again)) <= 1
    assert all(len(one) == repeated for one in again)


def test_orders_differ_between_readers_sessions_and_seeds() -> None:
    def orders(seed: int) -> list[tuple[str, ...]]:
        file = StudyFile(name="s", design="sessions", readers=("A", "B", "C"), seed=seed)
        made = Design(file=file, hash="", exams=tuple(f"e{n}" for n in range(40)))
        return [sitting.exams for reader in file.readers for sitting in made.sittings(reader)]

    assert len({*orders(1), *orders(2)}) == 12


def test_the_washout_is_enforced_from_the_last_reading(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, washout_days=14)
    done = read_all(progress, "Anna", datetime.now(UTC))
    assert [task.session for task in done] == [1] * len(EXAMS)
    rest = progress.task("Anna", now=datetime.now(UTC))
    assert isinstance(rest, Rest)
    assert rest.until is not None
    assert timedelta(days=13.9) < rest.until - datetime.now(UTC) < timedelta(days=14.1)
    with pytest.raises(PolicyError, match="nothing to read"):
        progress.grade("Anna", "e0", WITH, GRADES, seconds=1.0, hidden_seconds=0.0, now=datetime.now(UTC))
    later = read_all(progress, "Anna", rest.until)
    assert [task.session for task in later] == [2] * len(EXAMS)
    assert {done[0].condition, later[0].condition} == {WITHOUT, WITH}
    assert progress.task("Anna", now=rest.until) == Rest(until=None, session=2)


def test_a_second_reader_grades_alone_first_and_that_is_locked(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, design="second-reader")
    task = progress.show("Anna", now=START)
    assert (task.condition, progress.may_see_answer("Anna", task.exam_id, now=START)) == (WITHOUT, False)
    progress.grade("Anna", task.exam_id, WITHOUT, GRADES, seconds=3.0, hidden_seconds=0.0, now=START)
    aided = progress.show("Anna", now=START)
    assert (aided.exam_id, aided.condition, aided.draft) == (task.exam_id, WITH, GRADES)
    assert progress.may_see_answer("Anna", task.exam_id, now=START)
    assert not progress.may_see_answer("Ben", task.exam_id, now=START)
    with pytest.raises(PolicyError, match="locked already"):
        progress.grade(
            "Anna",
            task.exam_id,
            WITHOUT,
            {"hypertrophy": 0, "vascularity": 0},
            seconds=0.0,
            hidden_seconds=0.0,
            now=START,
        )
    done = read_all(progress, "Anna", START)
    assert len(done) == 2 * len(EXAMS) - 1
    assert Counter(read.condition for read in progress.reads) == {WITHOUT: len(EXAMS), WITH: len(EXAMS)}


def test_another_process_goes_on_where_this_one_was(tmp_path: Path) -> None:
    progress = progress_of(tmp_path)
    task = progress.show("Anna", now=START)
    progress.change("Anna", {"hypertrophy": 3}, seconds=12.34, hidden_seconds=2.0, now=START)
    again = progress_of(tmp_path).task("Anna", now=START)
    assert isinstance(again, Task)
    assert (again.exam_id, again.draft, again.seconds, again.hidden_seconds) == (
        task.exam_id,
        {"hypertrophy": 3},
        12.3,
        2,
    )
    shown = [
        line for line in (progress.folder / "events.jsonl").read_text().splitlines() if '"shown"' in line
    ]
    progress_of(tmp_path).show("Anna", now=START)
    assert [
        line for line in (progress.folder / "events.jsonl").read_text().splitlines() if '"shown"' in line
    ] == shown


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"exams": ["e0", "e1"]}, {"readers": ["Anna"]}, {"washout_days": 1}]
)
def test_a_study_that_has_begun_keeps_its_file(tmp_path: Path, change: dict[str, object]) -> None:
    progress_of(tmp_path)
    with pytest.raises(CampaignError, match="begun by another file"):
        progress_of(tmp_path, **change)


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"design": "crossed"}, ConfigurationError, "design"),
        ({"readers": ["Anna", "Anna"]}, ConfigurationError, "each reader once"),
        ({"readers": []}, ConfigurationError, "readers"),
        ({"readers": ["discussion"]}, ConfigurationError, "another name"),
        ({"exams": ["e0", "nowhere"]}, DataError, "nowhere"),
        ({"exams": ["e0", "e0"]}, ConfigurationError, "each exam once"),
        ({"repeated": 7}, DataError, "at most 6"),
        ({"washout": 3}, ConfigurationError, "washout"),
        ({"name": "../x"}, ConfigurationError, "name"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_says_why(
    tmp_path: Path, change: dict[str, object], error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        design(tmp_path, **change)


@pytest.mark.parametrize(
    "grades", [{"hypertrophy": 1}, {"hypertrophy": 0, "vascularity": 1}, {"hypertrophy": 1, "vascularity": 4}]
)
def test_grades_that_cannot_be_locked_are_refused(tmp_path: Path, grades: dict[str, int]) -> None:
    progress = progress_of(tmp_path)
    task = progress.show("Anna", now=START)
    with pytest.raises(DataError, match="Expected"):
        progress.grade(
            "Anna", task.exam_id, task.condition, grades, seconds=1.0, hidden_seconds=0.0, now=START
        )
    assert progress.task("Anna", now=START) == task


ADJUDICATION = {"design": "second-reader", "readers": ["Anna", "Ben"], "exams": ["e0", "e1", "e2", "e3"]}


def settled_study(tmp_path: Path) -> Progress:
    path = tmp_path / "study.toml"
    path.write_text(text(**ADJUDICATION) + '[adjudication]\nreaders = ["Anna", "Ben"]\ndecides = "Eve"\n')
    return Progress(tmp_path, load(path, EXAMS), EULAR_OMERACT)


def grades_of(reader: str) -> Iterator[tuple[str, dict[str, int]]]:
    for number, exam in enumerate(EXAMS[:4]):
        yield exam, {"hypertrophy": 3 if reader == "Ben" and number else 2, "vascularity": 1}


def test_disagreements_go_to_discussion_and_then_to_who_decides(tmp_path: Path) -> None:
    progress = settled_study(tmp_path)
    for person in (DISCUSSION, "Eve"):
        with pytest.raises(PolicyError, match="not finished"):
            adjudication.case(progress, person)
    for reader in ("Anna", "Ben"):
        given = dict(grades_of(reader))
        while isinstance(task := progress.task(reader, now=START), Task):
            progress.grade(
                reader,
                task.exam_id,
                task.condition,
                given[task.exam_id],
                seconds=1.0,
                hidden_seconds=0.0,
                now=START,
            )
    assert adjudication.case(progress, "Eve") is None
    case = adjudication.case(progress, DISCUSSION)
    assert case is not None
    assert (case.exam_id, case.total, set(case.grades)) == ("e1", 3, {"Anna", "Ben"})
    adjudication.settle(progress, DISCUSSION, "e1", {"hypertrophy": 3, "vascularity": 0})
    adjudication.settle(progress, DISCUSSION, "e2", None)
    with pytest.raises(PolicyError, match="comes later"):
        adjudication.settle(progress, DISCUSSION, "e1", GRADES)
    asked = adjudication.case(progress, "Eve")
    assert asked is not None
    assert (asked.exam_id, asked.grades) == ("e2", {})
    with pytest.raises(PolicyError, match="comes later"):
        adjudication.settle(progress, "Eve", "e2", None)
    adjudication.settle(progress, "Eve", "e2", {"hypertrophy": 1, "vascularity": 1})
    with pytest.raises(PolicyError, match="asks nobody"):
        adjudication.case(progress, "Anna")
    assert adjudication.reference(settled_study(tmp_path)) == {
        "e0": ("agreed", {"hypertrophy": 2, "vascularity": 1}),
        "e1": ("discussed", {"hypertrophy": 3, "vascularity": 0}),
        "e2": ("decided", {"hypertrophy": 1, "vascularity": 1}),
    }
    table = study_table.write(progress, {}, lambda exam: {"hypertrophy": 0, "vascularity": 0})
    rows = [row for _, row in read_rows(table, ["exam_id"]).rows]
    assert len(rows) == 16
    assert {row["ensemble_hypertrophy"] for row in rows} == {"0"}
    assert {(r["exam_id"], r["truth_by"], r["truth_hypertrophy"]) for r in rows} == {
        ("e0", "agreed", "2"), ("e1", "discussed", "3"), ("e2", "decided", "1"), ("e3", "", ""),
    }  # fmt: skip
