"""A centre's campaigns and simulated runs, as pages are told of them over HTTP."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ConfigurationError
from common.machine import file_lock, following
from server.desk import campaign_view, centre_desk
from server.desk.curves import MOST_POINTS, Curves
from server.federation.home import Home
from server.report import page as report_page
from server.runs.round_lines import RoundLines
from server.runs.run_folder import RunFolder
from server.service import campaign_facts
from tests import desks, events, watched_campaigns
from tests.counted_reads import counted
from tests.desks import Served
from tests.server.report.test_report import make_full
from tests.watched_campaigns import HOSTILE, Told


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return watched_campaigns.make_home(tmp_path / "centre")


@pytest.fixture
def campaign(home: Home) -> Iterator[Told]:
    with watched_campaigns.told(home) as found:
        yield found


def serving(folder: Path) -> Iterator[Served]:
    routers, pages, people = centre_desk.pages(folder)
    with desks.served(routers, pages, people) as found:
        yield found


@pytest.fixture
def served(campaign: Told, home: Home) -> Iterator[Served]:
    yield from serving(home.path)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_full(tmp_path_factory.mktemp("ended") / "study")
    report_page.write(folder)
    return folder


@pytest.fixture
def study(ended: Path, tmp_path: Path) -> Path:
    """A simulated run that has ended, with its report."""
    return shutil.copytree(ended, tmp_path / "study")


def test_a_campaign_is_told_from_its_beginning_to_its_end(campaign: Told, served: Served) -> None:
    with events.told(served.entered(), "/api/campaigns/demo") as page:
        facts = page.next()["facts"]
        assert (facts["state"], facts["asked"], facts["up"]) == ("RUNNING", ["north", "south"], False)
        assert page.now["rounds"] == {"afresh": True, "curves": []}
        campaign.stage(total=4)
        campaign.site("south", "waiting", HOSTILE)
        assert page.until(lambda now: now["facts"]["sites"]["south"]["reason"])["facts"]["total"] == 4
        campaign.round("scoring-000", 1, loss=0.75, auc=0.5)
        page.until(lambda now: now["rounds"]["curves"])
        assert page.now["rounds"] == {
            "afresh": False,
            "curves": [
                {
                    "system": "federated",
                    "stage": "scoring",
                    "group": "scoring-000",
                    "points": [[1, 0.75, 0.5]],
                }
            ],
        }
        campaign.round("scoring-000", 2, participants=["north"], dropped={"south": "late"})
        page.until(lambda now: now["rounds"]["curves"][0]["points"][0][0] == 2)
        page.until(lambda now: now["groups"][0]["round"] == 2)
        assert page.now["groups"][0]["dropped"] == {"south": "late"}
        campaign.reporter.judged("north", "received")
        campaign.reporter.end("COMPLETE_SUBSET", missing={"south": 1})
        page.until(lambda now: now["facts"]["state"] == "COMPLETE_SUBSET")
        assert page.now["facts"] == {
            **campaign_facts.facts(campaign.run),
            "progress": campaign_facts.progress(campaign.run.status()),
            "eta": "",
            "up": False,
        }
        page.until(lambda now: "COMPLETE_SUBSET" in now["log"]["lines"][-1])
        assert page.now["facts"]["missing"] == {"south": 1}
        assert page.now["facts"]["evaluation"] == {"north": "received"}


def test_all_campaigns_are_listed_as_they_change(campaign: Told, home: Home, served: Served) -> None:
    with events.told(served.entered(), "/api/campaigns") as page:
        assert [one["campaign"] for one in page.next()["campaigns"]] == ["demo"]
        with watched_campaigns.told(home, "later"):
            found = page.until(lambda now: len(now["campaigns"]) == 2)["campaigns"]
        assert [one["state"] for one in found] == ["RUNNING", "RUNNING"]
        campaign.reporter.end("FAILED", reason=HOSTILE)
        page.until(lambda now: now["campaigns"][0]["reason"] == HOSTILE)


def test_a_damaged_file_is_told_and_what_comes_after_it_too(campaign: Told, served: Served) -> None:
    status = campaign.run.path / "status.json"
    with events.told(served.entered(), "/api/campaigns/demo") as page:
        page.next()
        whole = status.read_bytes()
        status.write_bytes(b"{")
        campaign.reporter._folder.append_round("federated", watched_campaigns.record("a", 1))
        assert "status.json is damaged" in page.until(lambda now: now["problem"])["problem"]
        status.write_bytes(whole)
        page.until(lambda now: not now["problem"])
        page.until(lambda now: now["rounds"]["curves"])
        assert page.now["rounds"]["curves"][0]["points"] == [[1, 0.5, 0.8]]


def test_other_names_lead_nowhere(served: Served) -> None:
    browser = served.entered()
    assert browser.get("/api/campaigns/other").status_code == 400
    assert browser.get("/api/campaigns/other/report").status_code == 400
    for path in ("..", "%2e%2e", "..%2f..", "demo/../demo", "."):
        assert browser.get(f"/api/campaigns/{path}/report").status_code in (400, 404, 422)
    assert "none yet" in browser.get("/api/campaigns/demo/report").json()["error"]


def test_a_report_is_a_document_in_a_sandbox(study: Path) -> None:
    for served in serving(study):
        answer = served.entered().get("/api/campaigns/study/report")
        assert answer.content == (study / "report.html").read_bytes()
        policy = answer.headers["content-security-policy"]
        assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
        assert "cross-origin-opener-policy" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert served.browser().get("/api/campaigns/study/report").status_code == 401


def test_a_simulated_run_tells_what_its_files_say(study: Path) -> None:
    for served in serving(study):
        browser = served.entered()
        assert browser.get("/api/desk").json()["only"] == "study"
        with events.told(browser, "/api/campaigns/study") as page:
            found = page.next()
    manifest = json.loads((study / "manifest.json").read_text())
    metrics = json.loads((study / "metrics.json").read_text())
    assert (found["facts"]["state"], found["report"], found["problem"]) == (manifest["status"], True, "")
    accuracy = metrics["combined"]["accuracy"]["value"]
    cards = {one["label"]: one["value"] for one in found["results"]["cards"]}
    assert cards["accuracy, combined"] == f"{100 * accuracy:.1f} %"
    assert len(found["results"]["tables"]) == 2
    lines = [json.loads(line) for line in (study / "rounds.jsonl").read_text().splitlines()]
    assert sum(len(curve["points"]) for curve in found["rounds"]["curves"]) == len(lines)


def running(folder: Path) -> Path:
    """A simulated run that has begun."""
    RunFolder.begin(folder, watched_campaigns.settings("running"))
    return folder


def test_a_run_whose_process_was_killed_is_interrupted(tmp_path: Path) -> None:
    folder = running(tmp_path / "run")
    view = campaign_view.of_study(folder)
    with RunFolder.alone(folder):
        assert state(view.look().now["facts"]) == "RUNNING"
    assert state(view.look().now["facts"]) == "INTERRUPTED"


def state(facts: object) -> object:
    assert isinstance(facts, dict)
    return facts["state"]


def test_a_run_that_begins_anew_in_its_place_is_told_afresh(tmp_path: Path) -> None:
    folder = running(tmp_path / "run")
    view = campaign_view.of_study(folder)
    run = RunFolder(folder)
    for number in (1, 2):
        run.append_round("federated", watched_campaigns.record("a", number))
    assert view.look().added["rounds"] == {"afresh": True, "curves": [curve("a", [1, 2])]}
    run.append_round("federated", watched_campaigns.record("b", 1))
    assert view.look().added["rounds"] == {"afresh": False, "curves": [curve("b", [1])]}
    assert "rounds" not in view.look().added
    running(folder)
    assert view.look().added["rounds"] == {"afresh": True, "curves": []}
    RunFolder(folder).append_round("federated", watched_campaigns.record("c", 1))
    assert view.look().added["rounds"] == {"afresh": False, "curves": [curve("c", [1])]}


def curve(group: str, rounds: list[int]) -> dict[str, object]:
    points = [(number, 0.5, 0.8) for number in rounds]
    return {"system": "federated", "stage": "scoring", "group": group, "points": points}


def test_each_round_of_a_long_run_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = running(tmp_path / "run")
    line = json.dumps(
        {"system": "federated", "stage": "s", "group": "g", "round": 0, "loss": 1.0, "auc": None,
         "participants": ["north"], "dropped": {}, "seconds": 1.0, "time": "2030-01-01T00:00:00+00:00"}
    )  # fmt: skip
    count = 20_000
    with (folder / "rounds.jsonl").open("w") as file:
        file.writelines(line.replace('"round": 0', f'"round": {n}') + "\n" for n in range(1, count + 1))
    curves = Curves(RoundLines(folder))
    first = curves.look()
    assert first is not None
    points = first["curves"][0]["points"]  # type: ignore[index]
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    assert points[-1][0] >= count * (1 - 4 / MOST_POINTS)
    read = counted(monkeypatch)
    for number in range(count + 1, count + 101):
        with (folder / "rounds.jsonl").open("a") as file:
            file.write(line.replace('"round": 0', f'"round": {number}') + "\n")
        curves.look()
    assert sum(read) < 100 * (len(line) + 10 + following.KNOWN_BYTES)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="of a site, of a run or of a centre"):
        centre_desk.pages(tmp_path)


def test_looking_leaves_no_trace(campaign: Told, home: Home) -> None:
    def files() -> dict[Path, bytes]:
        found = [path for path in home.path.rglob("*") if path.is_file() and path.name != file_lock.NAME]
        return {path: path.read_bytes() for path in found}

    before = files()
    campaign_view.of_campaign(campaign.run).look()
    assert files() == before
