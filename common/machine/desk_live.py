"""What pages are told while they are open: a stream of events, each with what has changed since the one before.

Files are looked at once a second, in a thread. Whoever looks says what things are now, of which only what differs is
sent, and what was added. A stream begins with everything: after an interruption the browser asks for a new one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from common.errors import SynofedError, explained
from common.machine import desk
from common.text.json_values import finite

logger = logging.getLogger("synofed.desk")

LOOK_S = 1.0
QUIET_LOOKS = 15
"""After so many looks without news something is sent all the same: who has gone shows by it."""
PROBLEM = "problem"
UNEXPECTED = "Something unexpected happened; the terminal says what."


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look found, of JSON's types.

    Attributes:
        now: name -> what it is now; sent when it differs from what was sent last.
        added: name -> what was added since the last look, which is sent.
    """

    now: Mapping[str, object] = field(default_factory=dict)
    added: Mapping[str, object] = field(default_factory=dict)


Look = Callable[[], Seen]


def stream(request: Request, look: Look, *, every_s: float = LOOK_S) -> StreamingResponse:
    """The answer to a page that wants to be told.

    Args:
        request: of the page.
        look: called in a thread, never twice at once; what it cannot find is told as ``problem``, and it is called
            again.
        every_s: seconds between two looks.
    """
    return StreamingResponse(
        _events(look, desk.ended(request), every_s),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no"},
    )


async def _events(look: Look, ended: asyncio.Event, every_s: float) -> AsyncIterator[str]:
    """Until the page is left, or the pages are served no longer; the first ends this where it waits."""
    told: dict[str, str] = {}
    quiet = 0
    while not ended.is_set():
        news = await run_in_threadpool(_news, look, told)
        quiet = 0 if news else quiet + 1
        if news:
            yield f"data: {news}\n\n"
        elif quiet % QUIET_LOOKS == 0:
            yield ":\n\n"
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), every_s)


def _news(look: Look, told: dict[str, str]) -> str:
    """What there is to tell, as JSON on one line; empty: nothing."""
    seen = _looked(look)
    now = {name: _json(value) for name, value in seen.now.items()}
    parts = {name: text for name, text in now.items() if told.get(name) != text}
    told.update(parts)
    parts |= {name: _json(value) for name, value in seen.added.items()}
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in parts.items()) + "}" if parts else ""


def _looked(look: Look) -> Seen:
    problem = ""
    try:
        seen = look()
        return Seen(now={PROBLEM: "", **seen.now}, added=seen.added)
    except SynofedError as error:
        problem = str(error)
    except OSError as error:
        problem = explained(error)
    except Exception:
        logger.exception("a page cannot be told")
        problem = UNEXPECTED
    return Seen(now={PROBLEM: problem})


def _json(value: object) -> str:
    return json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
