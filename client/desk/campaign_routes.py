"""What the page of campaigns asks for: what the centre asked, what left, and what waits, as it goes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from client.connection import site_status
from client.log.traffic import Counted, Traffic
from client.site.hours import is_open
from client.site.site import Site
from client.state import busy, decisions
from common.errors import VerificationError
from common.machine import desk_live
from common.machine.desk_live import PROBLEM, Seen
from common.machine.following import Remembered


@dataclass(slots=True)
class Told:
    """The part of the log that a page has: up to this entry, of this reading of the log."""

    sequence: int = 0
    begun: int = 0


@dataclass(slots=True)
class CampaignsView:
    """All that pages see of a site's campaigns; the log is read once for all of them.

    Args:
        site: the site.
    """

    site: Site
    _traffic: Traffic = field(init=False)
    _opened: Remembered[Site] = field(init=False)
    _kept: Remembered[Collection[str]] = field(init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        folder = self.site.folder
        self._traffic = Traffic(folder)
        self._opened = Remembered([folder / "site.toml"], lambda: Site.open(folder))
        self._kept = Remembered([folder / "outbox"], self._ids)

    def look(self, told: Told) -> Seen:
        """How it is now.

        Args:
            told: what the page has of the log, and has after this.

        Raises:
            SynofedError: if a file of the site is damaged.
            OSError: if one cannot be read.
        """
        with self._guard:
            self._traffic.look()
            site, traffic = self._opened.look(), self._traffic
            now: dict[str, object] = {
                "campaigns": _campaigns(site, traffic),
                "total": asdict(traffic.total),
                "sent": [_sent(content, self._kept.look()) for content in reversed(traffic.sent)],
                "kept": len(self._kept.look()),
                "hours": _hours(site),
                "working": _working(site, traffic),
            }
            log = _log(traffic, told)
        try:
            now |= {"status": asdict(site_status.find(site)), PROBLEM: traffic.problem}
        except VerificationError as error:
            now[PROBLEM] = traffic.problem or str(error)
        return Seen(now=now, added={"log": log} if log else {})

    def _ids(self) -> Collection[str]:
        from client.log import outbox  # noqa: PLC0415  Flower: where replies are kept

        folder = self.site.folder
        return frozenset(outbox.ids(folder)) if (folder / "outbox").is_dir() else frozenset()


def router(site: Site) -> APIRouter:
    """Below ``/api``."""
    routes = APIRouter()
    view = CampaignsView(site)

    @routes.get("/traffic")
    async def live(request: Request) -> StreamingResponse:
        told = Told()
        return desk_live.stream(request, lambda: view.look(told))

    return routes


def _campaigns(site: Site, traffic: Traffic) -> list[dict[str, object]]:
    """The newest first; then those of which only the log tells."""
    listed = decisions.listed(site)
    found: list[dict[str, object]] = [
        {
            "plan_hash": plan_hash,
            "name": state.names[-1],
            "status": str(state.status),
            "first_asked": state.asked,
            "by": state.by,
            "decided": state.decided,
            "passed": asdict(traffic.campaigns.get(plan_hash, Counted())),
        }
        for plan_hash, state in listed.items()
    ]
    for plan_hash, counted in traffic.campaigns.items():
        if plan_hash not in listed:
            found.append({"plan_hash": plan_hash, "name": "", "status": "", "passed": asdict(counted)})
    return found


def _sent(content: Mapping[str, Any], kept: Collection[str]) -> dict[str, object]:
    """A reply that left: hashes, sizes and names of requests, as the log has them."""
    names = ("time", "event", "campaign", "plan_hash", "request", "server_round", "group", "reply_bytes")
    shown = {name: content.get(name) for name in names}
    return {**shown, "receipt": content.get("number"), "kept": content.get("request_id") in kept}


def _log(traffic: Traffic, told: Told) -> dict[str, object] | None:
    """The entries that a page has not got yet."""
    afresh = told.begun != traffic.begun
    lines = [text for sequence, text in traffic.lines if afresh or sequence > told.sequence]
    told.begun = traffic.begun
    told.sequence = traffic.lines[-1][0] if traffic.lines else 0
    return {"afresh": afresh, "lines": lines} if lines or afresh else None


def _hours(site: Site) -> dict[str, object]:
    open_now = is_open(site.policy.windows(), datetime.now(UTC))
    return {"entries": list(site.policy.hours), "zone": site.policy.time_zone, "open": open_now}


def _working(site: Site, traffic: Traffic) -> dict[str, object] | None:
    """What the site works on at this moment."""
    if not busy.is_working(site.folder):
        return None
    names = ("request", "campaign", "server_round", "group", "time")
    return {name: (traffic.open or {}).get(name) for name in names}
