"""A real browser: what it shows, what it asks for, and what goes wrong in it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests import desks

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 120_000
"""How long anything is waited for: how fast the machine is decides no test."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed here")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def wrong() -> list[str]:
    """What went wrong in a test's pages."""
    return []


@pytest.fixture
def page(browser: Browser, wrong: list[str]) -> Iterator[Page]:
    """A tab of its own; errors in it, and requests to anybody but this machine, fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)

    def said(message: ConsoleMessage) -> None:
        if message.type == "error":
            wrong.append(f"console: {message.text}")

    def opened(dialog: Dialog) -> None:
        wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def watch(tab: Page) -> None:
        tab.on("console", said)
        tab.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        tab.on("dialog", opened)

    def asked(url: str) -> None:
        if urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname != "127.0.0.1":
            wrong.append(f"asked: {url}")

    def leave() -> None:
        for tab in context.pages:
            tab.goto("about:blank")

    context.on("page", watch)
    context.on("request", lambda request: asked(request.url))
    desks.BEFORE_IT_ENDS.append(leave)
    yield context.new_page()
    desks.BEFORE_IT_ENDS.remove(leave)
    context.close()
    assert wrong == []


@pytest.fixture
def axe(wrong: list[str]) -> Callable[[Page], list[str]]:
    """What axe-core finds of a page that is serious or worse, as rule and element."""
    script = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        pytest.skip("axe-core is not installed here: make test-browser does that")
    source = script.read_text(encoding="utf-8")

    def found(page: Page) -> list[str]:
        page.evaluate(source)
        before = list(wrong)
        violations = page.evaluate("axe.run(document).then((result) => result.violations)")
        # It tries styles on the page, which the page's policy refuses.
        wrong[:] = before + [text for text in wrong[len(before) :] if "Applying inline style" not in text]
        return [
            f"{one['id']}: {node['html'][:200]}"
            for one in violations
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    return found
