"""What readers do is kept at once, survives any end of the process, and is what training reads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.tables.reading_room import READINGS, REGIONS
from client.data.tables.rows import read_rows
from client.data.tables.sources import Sources
from client.log import chain
from client.reading.room import Reading, ReadingRoom, reader_name
from client.reading.worklist import EULAR_OMERACT
from common.errors import ConfigurationError, DataError, VerificationError
from common.exam import Roi
from common.settings import Settings
from tests.reading_rooms import make_site
from tests.site_folders import make_settings, write_table

SETTINGS: Settings = make_settings()
EXAM = "site-a-p000-e00"


def room_of(folder: Path) -> ReadingRoom:
    return ReadingRoom(folder, EULAR_OMERACT)


def first_exam(folder: Path) -> str:
    return read_rows(folder / "manifest.csv", ["exam_id"]).rows[0][1]["exam_id"]


def test_a_region_goes_before_the_manifests_and_taken_away_lets_it_count_again(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    exam = first_exam(site.folder)
    room = room_of(site.folder)
    room.draw(exam, "gs", Roi(x=1, y=2, width=20, height=21), reader="Anna")
    drawn = {e.exam_id: e for e in Sources.of(site).tables(SETTINGS).exams}[exam].images
    assert drawn["gs"].roi == Roi(x=1, y=2, width=20, height=21)
    assert drawn["doppler"].roi == Roi.parse("6 4 30 28")
    _, row = read_rows(site.folder / REGIONS, ["exam_id"]).rows[0]
    assert (row["reader"], row["image"]) == ("Anna", "gs")
    room.draw(exam, "gs", None, reader="Ben")
    assert not (site.folder / REGIONS).exists()
    again = {e.exam_id: e for e in Sources.of(site).tables(SETTINGS).exams}[exam].images
    assert again["gs"].roi == Roi.parse("6 4 30 28")


def test_grades_are_one_more_readers_and_an_excluded_exam_is_left_out(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    before = Sources.of(site).tables(SETTINGS)
    room, exam = room_of(site.folder), first_exam(site.folder)
    room.read(exam, Reading(grades={"hypertrophy": 3, "vascularity": 1}), reader="Anna")
    tables = Sources.of(site).tables(SETTINGS)
    mine = [reading for reading in tables.readings if reading.exam_id == exam]
    assert [reading.reader for reading in mine][-1] == "Anna"
    assert mine[-1].grades == {"hypertrophy": 3, "vascularity": 1}
    room.read(exam, Reading(grades={}, excluded=True, reasons=("motion",)), reader="Anna")
    after = Sources.of(site).tables(SETTINGS)
    assert len(after.exams) == len(before.exams) - 1
    assert {q.exam_id: q.reason for q in after.quarantined}[exam] == (
        "Anna excluded it in the reading room: motion"
    )


def test_a_site_without_a_table_of_grades_learns_from_those_given_here(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    (site.folder / "grades.csv").unlink()
    exam = first_exam(site.folder)
    room_of(site.folder).read(exam, Reading(grades={"hypertrophy": 2}), reader="Anna")
    found = Sources.of(site).tables(SETTINGS).exams
    assert [(e.exam_id, dict(e.targets)) for e in found] == [(exam, {"hypertrophy": 2, "vascularity": None})]


def test_grades_after_the_answer_are_no_labels_and_those_from_before_stay_labels(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    exam = first_exam(site.folder)
    room = room_of(site.folder)
    first = Reading(grades={"hypertrophy": 1, "vascularity": 0})
    assert not room.read(exam, first, reader="Anna").assisted
    room.show(exam, reader="Anna")
    assert not room.read(exam, Reading(grades=first.grades, comment="same"), reader="Anna").assisted
    assert room.read(exam, Reading(grades={"hypertrophy": 3}), reader="Anna").assisted
    assert "Anna" not in {r.reader for r in Sources.of(site).tables(SETTINGS).readings}
    assert not room.read(exam, first, reader="Ben").assisted


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (Reading(grades={"hypertrophy": 0, "vascularity": 2}), "can be together"),
        (Reading(grades={"hypertrophy": 4}), "got hypertrophy 4"),
        (Reading(grades={"erosion": 1}), "got erosion 1"),
        (Reading(grades={}), "a grade, or the exam to be excluded"),
        (Reading(grades={}, excluded=True), "a reason or a comment"),
        (Reading(grades={"hypertrophy": 1}, reasons=("haste",)), "reasons of blur"),
        (Reading(grades={"hypertrophy": 1}, comment="x" * 2001), "at most 2000"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_kept(
    tmp_path: Path, reading: Reading, expected: str
) -> None:
    room = room_of(tmp_path)
    with pytest.raises(DataError, match=expected):
        room.read(EXAM, reading, reader="Anna")
    assert not room.readings
    assert not (tmp_path / READINGS).exists()


def test_two_processes_see_what_the_other_did_and_lose_nothing(tmp_path: Path) -> None:
    rooms = [room_of(tmp_path) for _ in range(3)]

    def read(number: int) -> None:
        for place in range(8):
            rooms[number].read(
                f"e{place}", Reading(grades={"hypertrophy": number + 1}), reader=f"reader {number}"
            )

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for room in rooms:
        room.refresh()
        assert len(room.readings) == 24
    assert len(read_rows(tmp_path / READINGS, ["exam_id"]).rows) == 24


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_line_that_a_crash_cut_short_is_no_event_and_the_next_one_mends_the_file(
    tmp_path: Path, cut: int
) -> None:
    room = room_of(tmp_path)
    room.read("e1", Reading(grades={"hypertrophy": 1}), reader="Anna")
    room.read("e2", Reading(grades={"hypertrophy": 2}), reader="Anna")
    events = tmp_path / "reading" / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-cut])
    again = room_of(tmp_path)
    assert set(again.readings) == {("e1", "Anna")}
    again.read("e3", Reading(grades={"hypertrophy": 3}), reader="Anna")
    assert set(room_of(tmp_path).readings) == {("e1", "Anna"), ("e3", "Anna")}
    assert [entry.content["event"] for entry in chain.entries(events)] == ["reading", "repaired", "reading"]


def test_tables_that_were_lost_come_back_from_the_events(tmp_path: Path) -> None:
    room_of(tmp_path).read("e1", Reading(grades={"hypertrophy": 1}), reader="Anna")
    content = (tmp_path / READINGS).read_bytes()
    (tmp_path / READINGS).unlink()
    room_of(tmp_path)
    assert (tmp_path / READINGS).read_bytes() == content


def test_an_edited_event_is_found_out(tmp_path: Path) -> None:
    room = room_of(tmp_path)
    room.read("e1", Reading(grades={"hypertrophy": 1}), reader="Anna")
    room.read("e2", Reading(grades={"hypertrophy": 1}), reader="Anna")
    events = tmp_path / "reading" / "events.jsonl"
    events.write_bytes(events.read_bytes().replace(b'"hypertrophy":1', b'"hypertrophy":2', 1))
    with pytest.raises(VerificationError, match="line 1 was edited"):
        list(chain.entries(events))


@given(st.text())
def test_a_name_is_plain_or_refused(text: str) -> None:
    try:
        name = reader_name(text)
    except ConfigurationError:
        return
    assert 0 < len(name) <= 80
    assert name.isprintable()
    assert name == reader_name(name)


def test_the_room_is_for_its_owner_alone(tmp_path: Path) -> None:
    room_of(tmp_path).read("e1", Reading(grades={"hypertrophy": 1}), reader="Anna")
    for path in [tmp_path / "reading", *(tmp_path / "reading").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_hand_made_table_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    (site.folder / "reading").mkdir()
    row = {"exam_id": "e", "image": "gs", "roi": "1 2 3", "reader": "Anna", "time": ""}
    write_table(site.folder / REGIONS, [row])
    room_of(site.folder)
    with pytest.raises(DataError, match=r"line 2: roi is '1 2 3'"):
        Sources.of(site).tables(SETTINGS)
