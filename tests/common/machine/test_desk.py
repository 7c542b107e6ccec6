"""Pages open for whoever has a link, once, from our own pages alone: asked over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib.resources import files

import pytest
from fastapi import APIRouter, Request

from common.errors import ConfigurationError, DataError, PolicyError
from common.machine import desk
from tests import desks
from tests.desks import Served

router = APIRouter()


@router.get("/who")
def who(request: Request) -> dict[str, str]:
    return {"person": desk.session(request).person}


@router.get("/wrong")
def wrong() -> None:
    raise DataError("Expected another <b>exam</b>")


@router.post("/forbidden")
def forbidden() -> None:
    raise PolicyError("Expected permission")


@router.get("/broken")
def broken() -> None:
    raise RuntimeError("patient 7")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with desks.served([router], [files("client.desk").joinpath("pages")], ["anna"]) as found:
        yield found


def test_a_link_works_once_and_the_next_one_is_announced(served: Served) -> None:
    before = len(served.links)
    link = served.link("anna")
    first, second = served.browser(), served.browser()
    assert first.get(link).status_code == 200
    assert first.get("/api/who").json() == {"person": "anna"}
    assert second.get(link).status_code == 401
    assert second.get("/api/who").status_code == 401
    assert len(served.links) == before + 1
    assert served.link("anna") != link


def test_the_cookie_is_for_this_port_and_for_no_script(served: Served) -> None:
    answer = served.browser().get(served.link("anna"))
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert cookie.startswith(f"synofed_{served.origin.rpartition(':')[2]}=")


@pytest.mark.parametrize("path", ["/", "/desk.js", "/api/who", "/api/nothing", "/nothing.html", "/page.css"])
def test_every_answer_has_the_headers(served: Served, path: str) -> None:
    for browser in (served.entered("anna"), served.browser()):
        headers = browser.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_another_host_name_is_refused(served: Served) -> None:
    answer = served.entered("anna").get("/api/who", headers={"host": "rebound.example"})
    assert answer.status_code == 421
    assert "anna" not in answer.text


@pytest.mark.parametrize("origin", [None, "null", "https://elsewhere.example", "http://127.0.0.1:1"])
def test_what_another_page_sends_is_refused(served: Served, origin: str | None) -> None:
    browser = served.entered("anna")
    del browser.headers["origin"]
    answer = browser.post("/api/forbidden", headers={} if origin is None else {"origin": origin})
    assert answer.status_code == 403
    assert "another" in answer.text


def test_what_another_page_reads_is_refused_and_a_bookmark_is_not(served: Served) -> None:
    browser = served.entered("anna")
    foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert browser.get("/api/who", headers=foreign).status_code == 403
    opened = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert browser.get("/", headers=opened).status_code == 200
    assert browser.get("/api/who", headers=opened).status_code == 403


def test_refusals_say_why_and_the_unexpected_says_nothing(served: Served) -> None:
    browser = served.entered("anna")
    assert browser.get("/api/wrong").json() == {"error": "Expected another <b>exam</b>"}
    refused = browser.post("/api/forbidden", headers={"origin": served.origin})
    assert (refused.status_code, refused.json()) == (403, {"error": "Expected permission"})
    broken = browser.get("/api/broken")
    assert broken.status_code == 500
    assert "patient 7" not in broken.text


def test_a_body_that_is_too_long_is_not_read(served: Served) -> None:
    large = b"x" * (desk.LARGEST_BODY + 1)
    headers = {"origin": served.origin}
    assert served.entered("anna").post("/api/forbidden", content=large, headers=headers).status_code == 413


@pytest.mark.parametrize(
    "path", ["/../desk.py", "/%2e%2e/desk.py", "/desk.py", "/..%2fdesk.py", "/__init__.py"]
)
def test_only_pages_are_files(served: Served, path: str) -> None:
    assert served.entered("anna").get(path).status_code == 404


def test_only_this_machine_can_ask(served: Served) -> None:
    listener = desk.bound(0)
    assert listener.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ConfigurationError, match="cannot be used"):
        desk.bound(listener.getsockname()[1])
    listener.close()
    assert isinstance(listener, socket.socket)


def test_behind_a_proxy_pages_have_its_origin_alone() -> None:
    told: list[str] = []
    way = desk.door(8000, behind="https://pages.example/", announce=lambda person, url: told.append(url))
    way.link()
    assert told[0].startswith("https://pages.example/enter?token=")
    assert way.hosts == {"pages.example"}
    with pytest.raises(ConfigurationError, match="https://HOST"):
        desk.door(8000, behind="http://pages.example", announce=lambda person, url: None)
