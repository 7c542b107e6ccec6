"""Pages are told what changed, until they are left."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from common.errors import DataError
from common.machine import desk_live
from common.machine.desk_live import Look, Seen
from tests import desks, events
from tests.desks import Served
from tests.patience import wait_for

FAST_S = 0.01


@contextmanager
def telling(look: Look) -> Iterator[Served]:
    router = APIRouter()

    @router.get("/live")
    async def live(request: Request) -> StreamingResponse:
        return desk_live.stream(request, look, every_s=FAST_S)

    @router.get("/other")
    def other() -> str:
        return "answered"

    with desks.served([router], []) as found:
        yield found


def test_what_stays_the_same_is_told_once() -> None:
    looks = 0

    def look() -> Seen:
        nonlocal looks
        looks += 1
        added = {"lines": ["same"]} if looks in (2, 4) else {}
        return Seen(now={"still": {"n": float("nan")}, "moving": looks // 6}, added=added)

    with telling(look) as served, events.told(served.entered(), "/api/live") as page:
        page.until(lambda now: now["moving"] == 1)
    assert page.all == [
        {"problem": "", "still": {"n": None}, "moving": 0},
        {"lines": ["same"]},
        {"lines": ["same"]},
        {"moving": 1},
    ]


def test_who_has_left_is_told_nothing_more() -> None:
    looks = 0

    def look() -> Seen:
        nonlocal looks
        looks += 1
        return Seen(now={"looks": looks})

    with telling(look) as served:
        browser = served.entered()
        with events.told(browser, "/api/live") as page:
            page.until(lambda now: now["looks"] >= 3)
        known: list[int] = []

        def ended() -> bool:
            known.append(looks)
            return len(known) > 1 and known[-1] == known[-2]

        wait_for(ended, every_s=50 * FAST_S)


def test_a_server_that_ends_waits_for_no_page() -> None:
    with telling(lambda: Seen(now={"there": True})) as served:
        link = served.link()
        browser = httpx.Client(base_url=served.origin, trust_env=False)
        browser.get(link)
        context = browser.stream("GET", "/api/live")
        answer = context.__enter__()
        lines = answer.iter_lines()
        assert next(lines)
    assert list(lines) == [""]  # it ended well, and nothing was said of a task that had to be cancelled
    context.__exit__(None, None, None)
    browser.close()


def test_a_slow_disk_keeps_nobody_else_waiting() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def look() -> Seen:
        begun.set()
        go_on.wait()
        return Seen(now={"read": True})

    with telling(look) as served:
        browser = served.entered()
        other = served.entered()
        with events.told(browser, "/api/live") as page:
            begun.wait()
            assert other.get("/api/other").json() == "answered"
            go_on.set()
            page.until(lambda now: now["read"])


def test_what_cannot_be_found_is_told_and_looked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    looks = 0
    errors = (
        DataError("Expected <b>status.json</b>"),
        OSError(13, "Permission denied", "log.txt"),
        ValueError("p7"),
    )

    def look() -> Seen:
        nonlocal looks
        looks += 1
        if looks <= len(errors):
            raise errors[looks - 1]
        return Seen(now={"found": True})

    caplog.set_level(logging.CRITICAL, "synofed.desk")
    with telling(look) as served, events.told(served.entered(), "/api/live") as page:
        page.until(lambda now: now.get("found"))
    problems = [message["problem"] for message in page.all]
    assert problems[0] == "Expected <b>status.json</b>"
    assert "log.txt: Permission denied" in problems[1]
    assert problems[2:] == [desk_live.UNEXPECTED, ""]
