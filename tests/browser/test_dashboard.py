"""Campaigns are watched in the browser, from their beginning to their end, without a reload."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi import APIRouter

from client.app import app as client_app
from client.desk import campaign_routes
from client.log import audit, chain
from client.site.site import Site
from client.state import decisions
from client.state.decisions import State, Status
from server.campaign import campaign
from server.campaign.roster import Roster
from server.desk import centre_desk
from simulation.engine.grid import InProcessGrid, Workers
from tests import desks, watched_campaigns
from tests.desks import Served
from tests.patience import wait_for
from tests.simulation.runs.test_simulate import CONFIG
from tests.site_folders import make_site_folder
from tests.watched_campaigns import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
PHONE_PX = 390


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    with desks.served(*centre_desk.pages(folder)) as found:
        yield found


def enter(page: Page, served: Served) -> None:
    page.goto(served.link())
    page.wait_for_url(f"{served.origin}/")
    page.evaluate("window.watched = true")  # gone after a reload


def sites(folder: Path) -> list[Path]:
    return [
        make_site_folder(
            folder / name, name=name, patients=9, exams_per_patient=4, seed=seed, held_out_patients=3
        )
        for seed, name in enumerate(("north", "south"))
    ]


def test_a_simulated_run_is_watched_to_its_end(page: Page, tmp_path: Path) -> None:
    sites(tmp_path / "cohort")
    (tmp_path / "small.toml").write_text(CONFIG.format(folder=tmp_path / "cohort"), encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import synofed; synofed.main()"
    command = [sys.executable, "-c", code, "simulate", "small.toml", "--set", "federation.rounds=4"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    run = tmp_path / "runs" / "small"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for((run / "manifest.json").exists)
            with serving(run) as served:
                enter(page, served)
                page.get_by_role("heading", name="small running").wait_for()
                page.get_by_role("img", name="Training loss. ").wait_for()
                page.get_by_role("heading", name="small complete all sites").wait_for()
                page.get_by_text("accuracy, combined").wait_for()
                page.get_by_text("Networks", exact=True).click()
                page.get_by_role("table", name="Networks of the ensemble").wait_for()
                assert page.evaluate("window.watched")
                assert page.locator("#news").inner_text() == "small: complete all sites"
                assert process.wait() == 0
                page.get_by_role("link", name="Open the report").wait_for()
                with page.expect_popup() as opened:
                    page.get_by_role("link", name="Open the report").click()
                report = opened.value
                report.get_by_role("heading", name="small").first.wait_for()
                assert report.evaluate("document.styleSheets.length") > 0
                assert report.evaluate("window.origin") == "null"
        finally:
            process.kill()


def test_a_centres_campaign_is_watched_to_its_end(page: Page, tmp_path: Path) -> None:
    """A real campaign over two sites; what its own process would tell is told here."""
    home = watched_campaigns.make_home(tmp_path / "centre")
    folders = sites(tmp_path / "sites")
    with watched_campaigns.told(home) as told, serving(home.path) as served:

        def train() -> None:
            with Workers(("cpu",), threads=1) as pool:
                outcome = campaign.run(
                    InProcessGrid(client_app, folders, pool),
                    watched_campaigns.settings(),
                    roster=Roster.anyone(len(folders)),
                    folder=told.run.path,
                    campaign="demo",
                    observer=told.reporter,
                )
            told.reporter.end(outcome.status.value)

        enter(page, served)
        page.get_by_role("link", name="demo").click()
        page.get_by_role("heading", name="demo running").wait_for()
        page.evaluate("window.watched = true")
        thread = threading.Thread(target=train)
        thread.start()
        page.get_by_role("row", name="north never present").wait_for()
        page.get_by_role("img", name="Training loss. ").wait_for()
        page.get_by_role("heading", name="demo complete all sites").wait_for()
        thread.join()
        last = told.run.rounds()[-1]
        page.get_by_role("rowheader", name=str(last["group"])).wait_for()
        assert page.evaluate("window.watched")
        status = told.run.status()
        page.get_by_text(f"{status.done} of {status.total}").wait_for()


def test_names_are_text_and_what_changes_is_said(page: Page, tmp_path: Path) -> None:
    home = watched_campaigns.make_home(tmp_path / "centre")
    with watched_campaigns.told(home) as told, serving(home.path) as served:
        told.stage()
        told.round("scoring-000", 1, dropped={"south": HOSTILE})
        enter(page, served)
        page.goto(f"{served.origin}/?campaign=demo")
        page.get_by_role("heading", name="demo running").wait_for()
        assert page.locator("#news").inner_text() == ""
        told.site("south", "waiting", HOSTILE)
        page.locator("#news", has_text="south: waiting").wait_for()
        assert page.locator("#news").inner_text() == f"south: waiting, {HOSTILE}"
        assert (
            page.get_by_role("cell", name=HOSTILE).count() == 2
        )  # why it waits, and why a round went without it
        told.reporter.end("FAILED", reason=HOSTILE)
        page.get_by_role("heading", name="demo failed").wait_for()
        assert page.locator("main img, main script").count() == 0
        page.goto(served.origin)
        page.get_by_role("cell", name=HOSTILE).wait_for()
        assert page.locator("main img, main script").count() == 0


def test_on_a_phone_by_keyboard(page: Page, tmp_path: Path) -> None:
    home = watched_campaigns.make_home(tmp_path / "centre")
    page.set_viewport_size({"width": PHONE_PX, "height": 844})
    with watched_campaigns.told(home) as told, serving(home.path) as served:
        told.stage()
        told.site("south", "away", "it missed its deadline of 900 s, and a long reason goes on and on")
        for number in (1, 2):
            told.round("scoring-000", number)
        enter(page, served)
        page.get_by_role("link", name="demo").focus()
        page.keyboard.press("Enter")
        page.get_by_role("img", name="Validation AUC. ").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE_PX
        region = page.get_by_role("region", name="Where each site stands")
        region.focus()
        page.keyboard.press("ArrowRight")
        wait_for(lambda: page.evaluate("document.activeElement.scrollLeft") > 0)
        page.get_by_label("Stage", exact=True).focus()
        told.round("scoring-000", 3)
        page.get_by_role("row", name="scoring-000 3").wait_for()
        assert page.evaluate("document.activeElement.id") == "stage"


def test_axe_finds_nothing_serious(page: Page, axe: Callable[[Page], list[str]], tmp_path: Path) -> None:
    home = watched_campaigns.make_home(tmp_path / "centre")
    with watched_campaigns.told(home) as told, serving(home.path) as served:
        told.stage()
        told.site("south", "away", "late")
        told.site("north", "present")
        told.round("scoring-000", 1, dropped={"south": "late"})
        told.round("scoring-001", 1)
        enter(page, served)
        page.get_by_role("link", name="demo").wait_for()
        assert axe(page) == []
        page.get_by_role("link", name="demo").click()
        page.get_by_role("img", name="Validation AUC. ").wait_for()
        assert axe(page) == []
        page.emulate_media(color_scheme="dark")
        assert axe(page) == []


@pytest.fixture
def hospital(tmp_path: Path) -> Site:
    found = Site.open(make_site_folder(tmp_path / "north", name="north", patients=2))
    for plan_hash, name, status in (("a" * 64, "demo", Status.APPROVED), ("b" * 64, HOSTILE, Status.WAITING)):
        place = decisions.folder(found.folder, plan_hash)
        place.mkdir(parents=True)
        decisions.write(place, State(names=(name,), status=status, asked="2026-01-01T00:00:00+00:00"))
    return found


def test_a_site_sees_what_is_asked_and_what_left(
    page: Page, axe: Callable[[Page], list[str]], hospital: Site
) -> None:
    start = APIRouter()
    start.add_api_route("/desk", lambda: {"title": "north", "pages": []})
    pages = [Path(campaign_routes.__file__).parent / "pages"]
    facts = {
        "request": "train", "campaign": "demo", "plan_hash": "a" * 64, "request_id": "r1", "server_round": 1,
        "group": "scoring-000", "request_hash": "0" * 64, "request_bytes": 1_000_000,
    }  # fmt: skip
    path = hospital.folder / chain.NAME
    with desks.served([start, campaign_routes.router(hospital)], pages) as served:
        cookie, value = next(iter(served.entered().cookies.items()))
        page.context.add_cookies([{"name": cookie, "value": value, "url": served.origin}])
        page.goto(f"{served.origin}/campaigns.html")
        page.get_by_text("One campaign waits for a decision").wait_for()
        assert page.get_by_role("link", name="officer's desk").get_attribute("href") == "/officer.html"
        assert page.get_by_role("rowheader", name=HOSTILE).count() == 1
        assert page.locator("main img, main script").count() == 0
        chain.append(path, audit.REQUEST, facts, durable=False)
        chain.append(
            path, audit.REPLY, {**facts, "reply_hash": "1" * 64, "reply_bytes": 500_000, "number": 1}
        )
        table = page.get_by_role("table", name="Replies that left, the newest first")
        table.get_by_role("cell", name="500.0 kB").wait_for()
        total = page.get_by_role("row", name="all 1")
        total.get_by_role("cell", name="500.0 kB").wait_for()
        assert axe(page) == []
        page.set_viewport_size({"width": PHONE_PX, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE_PX
