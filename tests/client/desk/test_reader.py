"""The reader's routes over real HTTP: a name first, hostile rows as text, the answer only when it was asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from client.data.tables.reading_room import READINGS
from client.data.tables.rows import read_rows
from client.desk import site_desk
from client.site.site import Site
from client.withdrawal import withdrawal
from tests import desks
from tests.desks import Served
from tests.reading_rooms import assistant, make_site
from tests.site_folders import read_table, write_table


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    yield make_site(tmp_path / "site").folder


@pytest.fixture
def served(site: Path) -> Iterator[Served]:
    opened = Site.open(site)
    routers, pages, people = site_desk.pages(opened, assistant=assistant(opened))
    with desks.served(routers, pages, people) as found:
        yield found


@pytest.fixture
def reader(served: Served) -> httpx.Client:
    browser = served.entered()
    browser.post("/api/reader", json={"name": "Anna"}).raise_for_status()
    return browser


def tokens(reader: httpx.Client) -> list[str]:
    return [exam["token"] for exam in reader.get("/api/exams").json()]


def test_nothing_is_shown_before_there_is_a_name(served: Served) -> None:
    browser = served.entered()
    assert browser.get("/api/reader").json()["name"] == ""
    refused = browser.get("/api/exams")
    assert (refused.status_code, "your name first" in refused.json()["error"]) == (400, True)
    assert browser.post("/api/reader", json={"name": " "}).status_code == 400
    assert browser.post("/api/reader", json={"nom": "x"}).status_code == 422
    assert browser.post("/api/reader", json={"name": "Anna  Berg"}).json() == {"name": "Anna Berg"}
    assert len(browser.get("/api/exams").json()) == 8


def test_a_readers_own_link_opens_the_reading_room_alone(site: Path) -> None:
    opened = Site.open(site)
    with desks.served(*site_desk.pages(opened, assistant=None, readers=["Anna", "Ben"])) as found:
        anna, whoever = found.entered("Anna"), found.entered()
        assert anna.get("/api/reader").json()["name"] == "Anna"
        assert len(anna.get("/api/exams").json()) == 8
        assert anna.post("/api/reader", json={"name": "Ben"}).status_code == 403
        assert [page["title"] for page in anna.get("/api/desk").json()["pages"]] == ["Exams"]
        for path in ("officer/state", "officer/ledger", "traffic"):
            assert anna.get(f"/api/{path}").status_code == 403, path
        assert anna.post("/api/officer/withdrawal", json={"patient": "x"}).status_code == 403
        assert whoever.get("/api/officer/state").status_code == 200
        assert len(whoever.get("/api/desk").json()["pages"]) == 3


def test_an_exam_is_graded_kept_and_said_in_the_list(site: Path, reader: httpx.Client) -> None:
    token = tokens(reader)[0]
    exam = reader.get(f"/api/exams/{token}").json()
    assert [image["region"] for image in exam["images"]] == [[6, 4, 30, 28]] * 2
    assert exam["reading"] is None
    graded = reader.post(f"/api/exams/{token}/reading", json={"grades": {"hypertrophy": 2, "vascularity": 1}})
    assert graded.json()["assisted"] is False
    states = [exam["state"] for exam in reader.get("/api/exams").json()]
    assert states == ["graded"] + ["new"] * 7
    wrong = reader.post(f"/api/exams/{token}/reading", json={"grades": {"hypertrophy": 0, "vascularity": 1}})
    assert (wrong.status_code, "can be together" in wrong.json()["error"]) == (422, True)
    assert len(read_rows(site / READINGS, ["exam_id"]).rows) == 1


def test_a_picture_comes_whole_and_a_region_only_inside_of_it(reader: httpx.Client) -> None:
    token = tokens(reader)[0]
    picture = reader.get(f"/api/exams/{token}/images/gs")
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (48, 40)
    assert reader.get(f"/api/exams/{token}/images/gs?frame=2").status_code == 422
    assert reader.get(f"/api/exams/{token}/images/nothing").status_code == 422
    for roi, status in (("1 1 20 20", 200), ("1 1 47 40", 422), ("1 1 5 5", 422), ("x", 422), (None, 200)):
        answer = reader.post(f"/api/exams/{token}/region", json={"image": "gs", "roi": roi})
        assert answer.status_code == status, answer.text


def test_the_answer_comes_when_it_is_asked_for_and_that_is_noted(reader: httpx.Client) -> None:
    token = tokens(reader)[0]
    assert reader.get(f"/api/exams/{token}/heatmaps/gs").status_code == 403
    before = reader.get(f"/api/exams/{token}").text
    assert not any(word in before for word in ("decision", "votes", "heatmap"))
    answer = reader.post(f"/api/exams/{token}/answer").json()
    assert set(answer["measurements"]) == {"hypertrophy", "vascularity"}
    assert answer["machine_known"] is True
    assert answer["measurements"]["hypertrophy"]["set"]
    assert answer["measurements"]["vascularity"]["set"] is None
    assert answer["heatmaps"] == ["gs", "doppler"]
    heatmap = reader.get(f"/api/exams/{token}/heatmaps/gs")
    assert Image.open(io.BytesIO(heatmap.content)).size == (30, 28)
    assert reader.get(f"/api/exams/{token}").json()["shown"] is True
    after = reader.post(f"/api/exams/{token}/reading", json={"grades": {"hypertrophy": 1}})
    assert after.json()["assisted"] is True


def test_a_region_that_was_moved_is_what_the_ensemble_is_asked_about(reader: httpx.Client) -> None:
    token = tokens(reader)[0]
    reader.post(f"/api/exams/{token}/answer").raise_for_status()
    reader.post(f"/api/exams/{token}/region", json={"image": "gs", "roi": "0 0 20 20"}).raise_for_status()
    reader.post(f"/api/exams/{token}/answer").raise_for_status()
    heatmap = reader.get(f"/api/exams/{token}/heatmaps/gs")
    assert Image.open(io.BytesIO(heatmap.content)).size == (20, 20)


def test_hostile_names_are_texts_of_json(site: Path, served: Served) -> None:
    rows = read_table(site / "manifest.csv")
    rows[0]["exam_id"], rows[0]["patient_id"] = "<script>alert(1)</script>", "../../etc/passwd"
    rows[1]["exam_id"] = 'a"b/c?d#e'
    write_table(site / "manifest.csv", rows)
    browser = served.entered()
    browser.post("/api/reader", json={"name": "<img src=x onerror=alert(1)>"}).raise_for_status()
    answer = browser.get("/api/exams")
    assert answer.headers["content-type"] == "application/json"
    first, second = answer.json()[:2]
    assert first["exam"] == "<script>alert(1)</script>"
    for exam in (first, second):
        opened = browser.get(f"/api/exams/{exam['token']}").json()
        assert opened["exam"] == exam["exam"]
        kept = browser.post(f"/api/exams/{exam['token']}/reading", json={"grades": {"hypertrophy": 1}})
        assert kept.status_code == 200


def test_patients_who_withdrew_are_not_in_the_list(site: Path, reader: httpx.Client) -> None:
    patient = read_table(site / "manifest.csv")[0]["patient_id"]
    assert patient in reader.get("/api/exams").text
    withdrawal.withdraw(Site.open(site), patient)
    left = reader.get("/api/exams").json()
    assert len(left) == 6
    assert patient not in {exam["patient"] for exam in left}


def test_ten_thousand_exams_are_listed_at_once(site: Path, served: Served) -> None:
    rows = read_table(site / "manifest.csv")
    many = [row | {"exam_id": f"{row['exam_id']}-{number}"} for number in range(1250) for row in rows]
    write_table(site / "manifest.csv", many)
    browser = served.entered()
    browser.post("/api/reader", json={"name": "Anna"}).raise_for_status()
    assert len(browser.get("/api/exams").json()) == 10_000
