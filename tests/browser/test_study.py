"""A reader study in a real browser: two readers, two sessions, and the table that comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.data.tables.rows import read_rows
from client.desk import site_desk
from client.site.site import Site
from simulation.readers import readers, readings
from tests import desks
from tests.desks import Served
from tests.reading_rooms import assistant, make_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
STUDY = """\
name = "two-sessions"
design = "sessions"
readers = ["Anna", "Ben"]
seed = 4
washout_days = {days}
"""
LETTERS = "qwer"
HIDE = """
Object.defineProperty(document, "hidden", {{ value: {0}, configurable: true }});
document.dispatchEvent(new Event("visibilitychange"));
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site", patients=3, exams_per_patient=1)


@pytest.fixture
def served(site: Site, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "study.toml").write_text(STUDY.format(days=0))
    with desks.served(
        *site_desk.study_pages(site, tmp_path / "study.toml", assistant=assistant(site))
    ) as found:
        yield found


def read_session(page: Page, number: int, grades: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Read a session's three exams by keys; the first is interrupted by a reload."""
    given = []
    for exam in (1, 2, 3):
        page.wait_for_selector(f"h1 >> text=Exam {exam} of 3")
        page.wait_for_selector(f".badge >> text=session {number}")
        if page.locator(".badge >> text=with assistance").count():
            page.wait_for_selector(".answer table")
        hypertrophy, vascularity = next(grades)
        page.keyboard.press(str(hypertrophy))
        with page.expect_response("**/api/study/changed"):
            page.keyboard.press(LETTERS[vascularity])
        if exam == 1:
            page.reload()
            page.wait_for_selector("input[type=radio]:checked:enabled")
            assert page.locator("input[type=radio]:checked").count() == 2
        with page.expect_response("**/api/study/graded"):
            page.keyboard.press("Enter")
        given.append((hypertrophy, vascularity))
    return given


def pairs(seed: int) -> Iterator[tuple[int, int]]:
    found = [(h, v) for h in range(4) for v in range(4) if h or not v]
    while True:
        seed = (5 * seed + 3) % 13
        yield found[seed]


def test_two_readers_and_two_sessions_end_in_their_table(
    page: Page, served: Served, site: Site, tmp_path: Path
) -> None:
    given: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for place, reader in enumerate(("Anna", "Ben")):
        page.goto(served.link(reader))
        grades = pairs(place + 1)
        for session in (1, 2):
            given[reader, session] = read_session(page, session, grades)
        page.wait_for_selector("text=All is read")
    page.goto(served.link())
    page.wait_for_selector("text=6 of 6")
    with page.expect_download() as download:
        page.click("text=Table of readings")
    path = tmp_path / "readings.csv"
    download.value.save_as(path)
    assert path.read_bytes() == (site.folder / "reading/studies/two-sessions/readings.csv").read_bytes()
    rows = [row for _, row in read_rows(path, ["exam_id"]).rows]
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row in rows:
        found.setdefault((row["reader"], int(row["session"])), []).append(
            (int(row["hypertrophy"]), int(row["vascularity"]))
        )
    assert found == given
    conditions = {(row["reader"], row["session"]): row["condition"] for row in rows}
    assert {conditions["Anna", "1"], conditions["Ben", "1"]} == {"without", "with"}
    assert all(float(row["seconds"]) > 0 for row in rows)
    truth = site.folder / "truth_of_study.csv"
    truth.write_text(
        "exam_id,truth_hypertrophy,truth_vascularity\n"
        + "".join(f"{exam},1,1\n" for exam in {r["exam_id"] for r in rows})
    )
    scored = readers.measure(readings.read(path, truth=truth), seed=1)
    accuracy = next(
        row
        for row in scored.measurements["hypertrophy"].rows
        if row.metric == "accuracy" and row.reader is None
    )
    for condition in ("without", "with"):
        wanted = [row["hypertrophy"] == "1" for row in rows if row["condition"] == condition]
        assert accuracy.conditions[condition].value == pytest.approx(sum(wanted) / len(wanted))


def test_the_page_holds_nothing_of_the_answer_before_the_grades_are_locked(
    page: Page, tmp_path: Path, site: Site
) -> None:
    text = STUDY.format(days=0).replace('"sessions"', '"second-reader"')
    (tmp_path / "study.toml").write_text(text)
    told: list[str] = []
    page.on("response", lambda response: told.append(response.url) if "/api/" in response.url else None)
    with desks.served(
        *site_desk.study_pages(site, tmp_path / "study.toml", assistant=assistant(site))
    ) as found:
        page.goto(found.link("Anna"))
        page.wait_for_selector("h1 >> text=Exam 1 of 3")
        assert page.locator(".answer").count() == 0
        assert not any(word in page.content() for word in ("heatmap", "votes", "plurality"))
        page.keyboard.press("2")
        page.keyboard.press("w")
        page.wait_for_timeout(200)
        assert not any("answer" in url or "heatmaps" in url for url in told)
        page.keyboard.press("Enter")
        page.wait_for_selector(".answer table")
        assert any("answer" in url for url in told)
        assert page.locator("input[type=radio]:checked").count() == 2


def test_the_washout_is_said(page: Page, tmp_path: Path, site: Site) -> None:
    (tmp_path / "study.toml").write_text(STUDY.format(days=30))
    with desks.served(
        *site_desk.study_pages(site, tmp_path / "study.toml", assistant=assistant(site))
    ) as found:
        page.goto(found.link("Anna"))
        read_session(page, 1, pairs(1))
        page.wait_for_selector("text=The next session may begin on")
        assert page.locator(".stage").count() == 0


def test_time_out_of_sight_is_counted_apart(page: Page, browser: Browser, served: Served, site: Site) -> None:
    page.goto(served.link("Anna"))
    page.wait_for_selector("h1 >> text=Exam 1 of 3")
    if page.locator(".badge >> text=with assistance").count():
        page.wait_for_selector(".answer table")
    with page.expect_response("**/api/study/changed"):
        page.evaluate(HIDE.format("true"))
    page.wait_for_timeout(timedelta(seconds=2) / timedelta(milliseconds=1))
    with page.expect_response("**/api/study/changed"):
        page.evaluate(HIDE.format("false"))
    page.keyboard.press("1")
    page.keyboard.press("q")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1 >> text=Exam 2 of 3")
    if page.locator(".badge >> text=with assistance").count():
        page.wait_for_selector(".answer table")
    events = [
        json.loads(line)
        for line in (site.folder / "reading/studies/two-sessions/events.jsonl").read_text().splitlines()
    ]
    graded = next(event for event in events if event["event"] == "graded")
    assert graded["hidden_seconds"] >= 2


def test_no_serious_violation(page: Page, served: Served, axe: Callable[[Page], list[str]]) -> None:
    for person in ("Anna", "Ben"):
        page.goto(served.link(person))
        page.wait_for_selector("h1 >> text=Exam 1 of 3")
        if page.locator(".badge >> text=with assistance").count():
            page.wait_for_selector(".answer table")
        assert axe(page) == []
    page.goto(served.link())
    page.wait_for_selector("text=0 of 6")
    assert axe(page) == []
