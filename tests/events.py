"""What a page is told by a stream of events, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Events:
    """A stream that is read on demand.

    Attributes:
        now: each part as it was told last.
        all: each message.
    """

    _lines: Iterator[str]
    now: dict[str, Any] = field(default_factory=dict)
    all: list[dict[str, Any]] = field(default_factory=list)

    def next(self) -> dict[str, Any]:
        """The next message."""
        for line in self._lines:
            if line.startswith("data: "):
                message: dict[str, Any] = json.loads(line.removeprefix("data: "))
                self.now |= message
                self.all.append(message)
                return message
        raise AssertionError("the stream ended")

    def until(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """All that is known, once something holds of it."""
        while not self.now or not holds(self.now):
            self.next()
        return self.now


@contextmanager
def told(browser: httpx.Client, path: str) -> Iterator[Events]:
    """Ask to be told."""
    with browser.stream("GET", path) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer.iter_lines())
