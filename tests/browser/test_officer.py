"""The officer's desk in a browser, with the officer's own process beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.consent import deciding
from client.desk import site_desk
from client.site.site import Site
from tests import desks, officers
from tests.desks import Served

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title="owned"</script>'
PHONE_PX = 390


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, tuple[object, ...]]:
    return officers.keyed(tmp_path)


@pytest.fixture
def served(site: tuple[Path, tuple[object, ...]]) -> Iterator[Served]:
    routers, pages, people = site_desk.pages(Site.open(site[0]), assistant=None)
    with desks.served(routers, pages, people) as found:
        yield found


def opened(page: Page, served: Served, part: str = "campaigns") -> None:
    assert page.context.request.get(served.link()).ok
    page.goto(f"{served.origin}/officer.html#{part}")


def signing(site: Path, key: tuple[object, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "synofed", "site", "officer", str(site), *map(str, key), "--stay"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_an_officer_approves_one_campaign_and_refuses_another(
    served: Served, page: Page, site: tuple[Path, tuple[object, ...]]
) -> None:
    folder, key = site
    spring = officers.waiting(folder, purpose=HOSTILE)
    autumn = officers.waiting(folder, rounds=2, name="autumn")
    opened(page, served)
    process = signing(folder, key)
    assert process.stdin is not None
    try:
        for name, button, becomes in (
            ("spring", "Approve", "approved"),
            ("autumn", "Refuse", "refused or left"),
        ):
            card = page.locator("details.campaign", has_text=name)
            card.locator("summary").first.click()
            card.get_by_role("button", name=button).click()
            card.get_by_text("Waits for the officer's signature:").wait_for()
            process.stdin.write("y\n")
            process.stdin.flush()
            card.locator("summary").get_by_text(becomes, exact=True).wait_for()
            card.get_by_text("Signed.").wait_for()
            card.locator("summary").first.click()
        states = [str(deciding.known(Site.open(folder), one).status) for one in (spring, autumn)]
        assert states == ["approved", "left"]
        assert page.title() == "north · Officer"
    finally:
        process.kill()
        said, _ = process.communicate()
    assert said.count("Sign this with key") == 2
    assert "You REFUSE or LEAVE this campaign" in said
    assert officers.PASSPHRASE not in said


def test_hostile_text_is_shown_as_it_was_written(
    served: Served, page: Page, site: tuple[Path, tuple[object, ...]]
) -> None:
    officers.waiting(site[0], purpose=HOSTILE)
    opened(page, served)
    page.get_by_text(HOSTILE).wait_for()
    assert page.locator("#part img").count() == page.locator("#part script").count() == 0


def test_a_change_of_the_policy_is_shown_before_it_is_asked(served: Served, page: Page) -> None:
    opened(page, served, "policy")
    page.get_by_label("Most rounds of a campaign").fill("9")
    page.get_by_label("Training under secure aggregation alone").check()
    page.get_by_role("button", name="Show what would change").click()
    page.get_by_text("Most rounds of a campaign: 20 → 9").wait_for()
    page.get_by_text("Training under secure aggregation alone: not permitted → permitted").wait_for()
    page.get_by_role("button", name="Ask the officer to sign this").click()
    page.get_by_role("button", name="Take back").click()
    page.get_by_text("Taken back.").wait_for()


def test_a_patient_is_withdrawn_by_keyboard_alone(
    served: Served, page: Page, site: tuple[Path, tuple[object, ...]]
) -> None:
    opened(page, served, "withdrawal")
    page.get_by_label("Identifier, as in the manifest").focus()
    page.keyboard.type("north-p001")
    page.keyboard.press("Enter")
    page.get_by_label("Type the identifier once more").wait_for()
    assert page.get_by_role("button", name="Withdraw this patient").is_disabled()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("north-p001")
    page.keyboard.press("Enter")
    page.get_by_text("Withdrawal from the training of networks").wait_for()
    assert "north-p001" not in (site[0] / "manifest.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", ["campaigns", "policy", "ledger", "outbox", "log", "withdrawal"])
def test_no_part_is_wider_than_a_phone(
    served: Served, page: Page, site: tuple[Path, tuple[object, ...]], part: str
) -> None:
    officers.waiting(site[0], purpose="x" * 300)
    page.set_viewport_size({"width": PHONE_PX, "height": 844})
    opened(page, served, part)
    page.locator("#part h2").wait_for()
    page.get_by_text(re.compile("^Reading.*…$")).first.wait_for(state="hidden")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE_PX


@pytest.mark.parametrize("part", ["campaigns", "policy", "ledger", "outbox", "log", "withdrawal"])
def test_axe_finds_nothing_serious(
    served: Served,
    page: Page,
    site: tuple[Path, tuple[object, ...]],
    axe: Callable[[Page], list[str]],
    part: str,
) -> None:
    officers.waiting(site[0])
    opened(page, served, part)
    page.locator("#part h2").wait_for()
    page.get_by_text(re.compile("^Reading.*…$")).first.wait_for(state="hidden")
    assert axe(page) == []
