"""Pages served for real, on a port of this machine, and browsers without scripts that come in by their links."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable

import httpx
from fastapi import APIRouter

from common.machine import desk


@dataclass
class Served:
    origin: str
    links: list[tuple[str, str]] = field(default_factory=list)
    _browsers: list[httpx.Client] = field(default_factory=list)

    def link(self, person: str = "") -> str:
        """The newest link of a person."""
        return next(url for whose, url in reversed(self.links) if whose == person)

    def browser(self) -> httpx.Client:
        """Without a session; what it sends comes from our pages."""
        self._browsers.append(
            httpx.Client(base_url=self.origin, trust_env=False, headers={"origin": self.origin}, timeout=60)
        )
        return self._browsers[-1]

    def entered(self, person: str = "") -> httpx.Client:
        browser = self.browser()
        assert browser.get(self.link(person)).status_code == 200
        return browser

    def close(self) -> None:
        for browser in self._browsers:
            browser.close()


BEFORE_IT_ENDS: list[Callable[[], None]] = []
"""Called before a server stops: an open page would ask a server that is gone, and say so."""


@contextmanager
def served(
    routers: Sequence[APIRouter], pages: Sequence[Traversable], people: Sequence[str] = ("",)
) -> Iterator[Served]:
    listener = desk.bound(0)
    port = listener.getsockname()[1]
    found = Served(f"http://127.0.0.1:{port}")
    way = desk.door(port, behind="", announce=lambda person, url: found.links.append((person, url)))
    for person in people:
        way.link(person)
    server = desk.server(desk.application(way, routers, pages))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield found
    finally:
        for leave in BEFORE_IT_ENDS:
            leave()
        found.close()
        server.should_exit = True
        thread.join()
        listener.close()
