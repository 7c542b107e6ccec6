"""What the centre asked and what left, as the page is told of it, from the site's own log."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from client.desk import campaign_routes
from client.desk.campaign_routes import CampaignsView, Told
from client.log import audit, chain
from client.log.traffic import LAST_LINES, Traffic
from client.site.site import Site
from client.state import busy, decisions
from client.state.decisions import State, Status
from common import hash_chain
from common.hash_chain import START
from common.machine import following
from tests import desks, events
from tests.counted_reads import counted
from tests.desks import Served
from tests.patience import wait_for
from tests.site_folders import make_site_folder

ROOT = Path(__file__).parents[3]
PLAN, OTHER = "a" * 64, "b" * 64
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site.open(make_site_folder(tmp_path / "north", name="north", patients=2))
    decide(found, PLAN, "demo", Status.APPROVED)
    return found


def decide(site: Site, plan_hash: str, name: str, status: Status) -> None:
    place = decisions.folder(site.folder, plan_hash)
    place.mkdir(parents=True, exist_ok=True)
    by = "" if status is Status.WAITING else "anna"
    decisions.write(place, State(names=(name,), status=status, asked="2030-01-01T00:00:00+00:00", by=by))


def facts(number: int, *, plan_hash: str = PLAN, campaign: str = "demo") -> dict[str, object]:
    return {
        "request": "train", "campaign": campaign, "plan_hash": plan_hash, "request_id": f"r{number}",
        "server_round": number, "group": "g", "request_hash": "0" * 64, "request_bytes": 1000,
    }  # fmt: skip


def ask(site: Site, number: int, **of: str) -> None:
    chain.append(site.folder / chain.NAME, audit.REQUEST, facts(number, **of), durable=False)


def answer(site: Site, number: int) -> None:
    details = {**facts(number), "reply_hash": "1" * 64, "reply_bytes": 400, "number": number}
    chain.append(site.folder / chain.NAME, audit.REPLY, details, durable=False)


@pytest.fixture
def served(site: Site) -> Iterator[Served]:
    with desks.served([campaign_routes.router(site)], []) as found:
        yield found


def test_the_page_is_told_what_was_asked_and_what_left(site: Site, served: Served) -> None:
    with events.told(served.entered(), "/api/traffic") as page:
        first = page.next()
        assert (first["problem"], first["sent"], first["working"]) == ("", [], None)
        assert first["status"]["connection"] == "not joined"
        assert first["hours"] == {"entries": [], "zone": "", "open": True}
        with busy.working(site.folder):
            ask(site, 1)
            page.until(lambda now: now["working"] and now["working"]["server_round"] == 1)
            answer(site, 1)
            page.until(lambda now: now["sent"])
        sent = page.now["sent"][0]
        assert (sent["campaign"], sent["reply_bytes"], sent["receipt"], sent["kept"]) == (
            "demo",
            400,
            1,
            False,
        )
        passed = page.now["campaigns"][0]["passed"]
        assert (passed["requests"], passed["request_bytes"]) == (1, 1000)
        assert (passed["replies"], passed["reply_bytes"]) == (1, 400)
        audit.refused(site.folder, None, code="malformed")
        page.until(lambda now: now["total"]["refused"] == 1)
        assert page.now["campaigns"][0]["passed"]["refused"] == 0
        decide(site, OTHER, HOSTILE, Status.WAITING)
        found = page.until(lambda now: len(now["campaigns"]) == 2)["campaigns"]
        assert {one["name"]: one["status"] for one in found} == {"demo": "approved", HOSTILE: "waiting"}
        page.until(lambda now: not now["working"])


def test_lines_are_those_of_the_command_and_each_is_told_once(site: Site) -> None:
    view, one, other = CampaignsView(site), Told(), Told()
    ask(site, 1)
    lines = [audit.line(entry) for entry in chain.entries(site.folder / chain.NAME)]
    assert view.look(one).added == {"log": {"afresh": True, "lines": lines}}
    assert view.look(one).added == {}
    answer(site, 1)
    last = audit.line(list(chain.entries(site.folder / chain.NAME))[-1])
    assert view.look(one).added == {"log": {"afresh": False, "lines": [last]}}
    assert view.look(other).added == {"log": {"afresh": True, "lines": [*lines, last]}}


def test_a_log_that_was_edited_says_so_and_one_put_back_goes_on(site: Site) -> None:
    for number in (1, 2):
        ask(site, number)
    path = site.folder / chain.NAME
    whole = path.read_bytes()
    traffic = Traffic(site.folder)
    path.write_bytes(whole.replace(b'"server_round":1', b'"server_round":7'))
    traffic.look()
    assert "line 1 was edited" in traffic.problem
    path.write_bytes(whole[:-1])
    traffic.look()
    assert (traffic.problem, traffic.total.requests) == ("", 1)
    path.write_bytes(whole)
    traffic.look()
    assert (traffic.problem, traffic.total.requests) == ("", 2)


def test_a_long_log_is_read_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site.folder / chain.NAME
    last, count = START, 20_000
    with path.open("wb") as file:
        for number in range(1, count + 1):
            line = hash_chain.line(audit.REQUEST, facts(number), last=last, time="2030-01-01T00:00:00+00:00")
            file.write(line + b"\n")
            last = last.after(line)
    traffic = Traffic(site.folder)
    traffic.look()
    assert (traffic.total.requests, len(traffic.lines)) == (count, LAST_LINES)
    ask(site, count + 1)
    with monkeypatch.context() as patched:
        read = counted(patched)
        for _ in range(50):
            traffic.look()
    assert traffic.total.requests == count + 1
    assert sum(read) < 1000 + following.KNOWN_BYTES


def test_nothing_of_patients_is_told(site: Site) -> None:
    ask(site, 1)
    answer(site, 1)
    view = CampaignsView(site).look(Told())
    told = json.dumps([dict(view.now), dict(view.added)])
    for name in ("north-p000", "north-p001", "images/", "Resona", str(site.folder)):
        assert name not in told


@pytest.mark.slow
@pytest.mark.soak
def test_the_command_serves_it(site: Site) -> None:
    ask(site, 1)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    run = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import synofed; synofed.main()"
    command = [sys.executable, "-c", run, "serve", str(site.folder), "--json"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            origin = url.partition("/enter")[0]
            with httpx.Client(base_url=origin, trust_env=False, timeout=60) as browser:
                wait_for(lambda: _answers(browser))
                assert browser.get(url).status_code == 200
                assert "/campaigns.html" in browser.get("/api/desk").text
                assert "text/html" in browser.get("/campaigns.html").headers["content-type"]
                with events.told(browser, "/api/traffic") as page:
                    assert page.next()["total"]["requests"] == 1
        finally:
            process.terminate()


def _answers(browser: httpx.Client) -> bool:
    try:
        return browser.get("/").status_code == 401
    except httpx.TransportError:
        return False
