"""A study's pages over real HTTP: nothing of whose an exam is, nothing of the answer before the grades are locked."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from client.data.tables.rows import read_rows
from client.desk import site_desk
from client.site.site import Site
from common.errors import CampaignError, DataError
from tests import desks
from tests.desks import Served
from tests.reading_rooms import assistant, make_site
from tests.site_folders import read_table

STUDY = """\
name = "pilot"
design = "second-reader"
readers = ["Anna", "Ben"]
seed = 1
[adjudication]
readers = ["Anna", "Ben"]
decides = "Dora"
"""
GRADES = {"hypertrophy": 2, "vascularity": 1}
TELLING = ("decision", "votes", "plurality", "heatmap", "combined", "weight", "contested")
"""Words of an answer."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site", patients=3, exams_per_patient=1)


@pytest.fixture
def served(site: Site, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "study.toml").write_text(STUDY)
    parts = site_desk.study_pages(site, tmp_path / "study.toml", assistant=assistant(site))
    with desks.served(*parts) as found:
        yield found


def study(browser: httpx.Client) -> dict[str, object]:
    found: dict[str, object] = browser.get("/api/study").json()
    return found


def task(browser: httpx.Client) -> dict[str, object]:
    found = study(browser)["task"]
    assert isinstance(found, dict)
    return found


def lock(browser: httpx.Client, grades: dict[str, int] | None = None) -> httpx.Response:
    shown = task(browser)
    body = {
        "token": shown["token"],
        "condition": shown["condition"],
        "grades": grades or GRADES,
        "seconds": 5,
    }
    return browser.post("/api/study/graded", json=body)


def read_all(browser: httpx.Client, grades: dict[str, int] | None = None) -> None:
    while "task" in study(browser):
        lock(browser, grades).raise_for_status()


def test_each_reader_has_a_link_and_none_is_anothers(served: Served) -> None:
    assert [person for person, _ in served.links] == ["Anna", "Ben", "discussion", "Dora", ""]
    anna, ben = served.entered("Anna"), served.entered("Ben")
    assert (study(anna)["person"], study(ben)["person"]) == ("Anna", "Ben")
    lock(anna).raise_for_status()
    assert task(anna)["condition"] == "with"
    assert task(ben)["condition"] == "without"


def test_nothing_tells_whose_exam_it_is(site: Site, served: Served) -> None:
    rows = read_table(site.folder / "manifest.csv")
    telling = {
        value for row in rows for column, value in row.items() if value and not column.endswith("_roi")
    }
    anna = served.entered("Anna")
    shown = task(anna)
    texts = [anna.get("/api/study").text, anna.get("/api/desk").text, json.dumps(shown)]
    headers = [str(anna.get(f"/api/study/images/{name}").headers) for name in ("gs", "doppler")]
    for value in telling - {"gs", "doppler", "train", "test"}:
        assert not any(value in text for text in (*texts, *headers)), value
    # Cut to the region: what a machine writes into a picture's edge is outside of it.
    picture = Image.open(io.BytesIO(anna.get("/api/study/images/gs").content))
    assert picture.size == (30, 28)
    assert not picture.info


@pytest.mark.parametrize("path", ["exams", "reader", "exams/x/images/gs", "officer/campaigns"])
def test_a_study_has_no_other_pages(served: Served, path: str) -> None:
    assert served.entered("Anna").get(f"/api/{path}").status_code == 404


def test_nothing_of_the_answer_is_there_before_the_grades_are_locked(served: Served) -> None:
    anna = served.entered("Anna")
    assert task(anna)["condition"] == "without"
    assert anna.post("/api/study/answer").status_code == 403
    assert anna.get("/api/study/heatmaps/gs").status_code == 403
    assert not any(word in anna.get("/api/study").text for word in TELLING)
    changed = {"token": task(anna)["token"], "condition": "with", "grades": GRADES}
    assert not any(word in anna.post("/api/study/changed", json=changed).text for word in TELLING)
    assert (
        anna.post("/api/study/answer").status_code == 403
    )  # what the page says of its condition changes nothing
    locked = lock(anna)
    assert not any(word in locked.text for word in TELLING)
    answer = anna.post("/api/study/answer")
    assert set(answer.json()["measurements"]) == {"hypertrophy", "vascularity"}
    assert anna.get("/api/study/heatmaps/gs").status_code == 200
    assert served.entered("Ben").post("/api/study/answer").status_code == 403
    lock(anna).raise_for_status()
    assert task(anna)["condition"] == "without"
    assert anna.post("/api/study/answer").status_code == 403
    assert anna.get("/api/study/heatmaps/gs").status_code == 403


def test_locked_grades_stay_and_a_stale_page_is_refused(served: Served) -> None:
    anna = served.entered("Anna")
    first = task(anna)
    lock(anna).raise_for_status()
    body = {"token": first["token"], "condition": "without", "grades": {"hypertrophy": 0, "vascularity": 0}}
    again = anna.post("/api/study/graded", json=body)
    assert (again.status_code, "locked already" in again.json()["error"]) == (403, True)
    lock(anna).raise_for_status()
    stale = anna.post("/api/study/changed", json={**body, "token": first["token"]})
    assert stale.status_code == 403


def test_the_table_is_the_organisers_and_nobody_elses(served: Served) -> None:
    anna, organiser = served.entered("Anna"), served.entered()
    read_all(anna)
    assert anna.get("/api/study/readings.csv").status_code == 403
    assert anna.get("/api/study/progress").status_code == 403
    assert study(organiser)["organiser"] is True
    assert organiser.post("/api/study/answer").status_code == 403
    standing = organiser.get("/api/study/progress").json()
    assert [(one["reader"], one["read"], one["planned"]) for one in standing] == [
        ("Anna", 6, 6),
        ("Ben", 0, 6),
    ]
    table = organiser.get("/api/study/readings.csv").text.splitlines()
    assert len(table) == 1 + 6
    assert table[0].startswith(
        "exam_id,patient_id,reader,session,condition,order,seconds,hidden_seconds,time,"
    )


def test_who_discusses_and_who_decides_wait_for_the_readers(site: Site, served: Served) -> None:
    discussion, dora = served.entered("discussion"), served.entered("Dora")
    assert "not finished" in str(study(discussion)["waits"])
    assert discussion.get("/api/study/images/gs").status_code == 403
    read_all(served.entered("Anna"))
    read_all(served.entered("Ben"), {"hypertrophy": 3, "vascularity": 1})
    case = study(discussion)["case"]
    assert isinstance(case, dict)
    assert (case["total"], set(case["grades"])) == (3, {"Anna", "Ben"})
    assert discussion.get("/api/study/images/gs").status_code == 200
    for grades in (GRADES, None, None):
        case = study(discussion)["case"]
        assert isinstance(case, dict)
        body = {"token": case["token"], "grades": grades}
        discussion.post("/api/study/settled", json=body).raise_for_status()
    decides = study(dora)["case"]
    assert isinstance(decides, dict)
    assert (decides["total"], decides["grades"]) == (2, {})
    served.entered().get("/api/study/readings.csv").raise_for_status()
    rows = [row for _, row in read_rows(site.folder / "reading/studies/pilot/readings.csv", ["exam_id"]).rows]
    settled = {row["exam_id"]: row["truth_by"] for row in rows}
    assert sorted(settled.values()) == ["", "", "discussed"]


def test_a_study_without_an_ensemble_or_of_another_file_does_not_open(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    with pytest.raises(DataError, match="has received none yet"):
        site_desk.study_pages(site, path, assistant=None)
    site_desk.study_pages(site, path, assistant=assistant(site))
    path.write_text(STUDY.replace("seed = 1", "seed = 2"))
    with pytest.raises(CampaignError, match="another name"):
        site_desk.study_pages(site, path, assistant=assistant(site))
