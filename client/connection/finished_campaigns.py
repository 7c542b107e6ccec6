"""Private campaigns whose last round was answered: their step is rehearsed here, once, within minutes.

The site's long-lived process starts another one for it, which reads the plan and nothing of any patient, and ends it
when its time is up. What came of it is kept in the campaign's folder, stands in ``synofed privacy audit``, and is
sent nowhere.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.files import atomic
from client.log import chain
from client.log.audit import REPLY
from client.site.site import Site
from client.state import decisions
from client.state.decisions import REHEARSAL, Status
from common.errors import SynofedError, explained
from common.machine.processes import Service

LOOK_S = 60.0
"""Between two looks for a campaign that has ended."""
STOP_S = 2.0
MODULE = "client.evidence.rehearsed"


@dataclass(slots=True)
class FinishedCampaigns:
    """Looks for private campaigns that have ended; whatever fails here stops nothing.

    Args:
        folder: of the site.
        say: told what the site's people should see.
    """

    folder: Path
    say: Callable[[str], None]
    every_s: float = LOOK_S
    _tried: set[str] = field(default_factory=set)
    _running: tuple[str, Service] | None = None
    _until: float = 0.0
    _look_at: float = 0.0

    def look(self) -> None:
        """Look once, and look after the rehearsal that runs."""
        if self._running is not None:
            self._tend(*self._running)
            return
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + self.every_s
        with suppress(SynofedError):  # `synofed site check` says what of these files cannot be read
            site = Site.open(self.folder)
            plan_hash = next(self._ended(site), None) if site.file.audit.after_campaigns else None
            if plan_hash is not None:
                self._start(site, plan_hash)

    def stop(self) -> None:
        """End the rehearsal if one runs; it is begun again at the next start."""
        if self._running is not None:
            self._running[1].stop(grace_s=STOP_S)
            self._running = None

    def _ended(self, site: Site) -> Iterator[str]:
        from common.methods.rounds import longest_stage_rounds  # noqa: PLC0415  NumPy

        for plan_hash, state in decisions.listed(site).items():
            kept = decisions.folder(site.folder, plan_hash) / REHEARSAL
            if state.status is Status.WAITING or plan_hash in self._tried or kept.exists():
                continue
            settings = decisions.plan(site, plan_hash, name=state.names[-1])
            if settings.private and _last_round(site, plan_hash) >= longest_stage_rounds(settings):
                yield plan_hash

    def _start(self, site: Site, plan_hash: str) -> None:
        self._tried.add(plan_hash)
        service = Service(
            name="rehearsal",
            command=lambda: [sys.executable, "-P", "-m", MODULE, str(site.folder.resolve()), plan_hash],
            environment=dict(os.environ),
            log=site.folder / "flower" / "rehearsal.log",
        )
        try:
            service.start()
        except OSError as error:
            self.say(
                f"the private step of campaign {plan_hash[:12]} could not be rehearsed ({explained(error)})"
            )
            return
        self._running = (plan_hash, service)
        self._until = time.monotonic() + 60 * site.file.audit.minutes

    def _tend(self, plan_hash: str, service: Service) -> None:
        ended = service.process.poll() if service.process is not None else None
        if ended is None and time.monotonic() < self._until:
            return
        self.stop()
        if ended == 0:
            self.say(
                f"the private step of campaign {plan_hash[:12]} was rehearsed: synofed privacy audit {self.folder}"
            )
            return
        why = (
            "its time was up ([audit] minutes in site.toml)"
            if ended is None
            else f"it ended with code {ended}"
        )
        self.say(
            f"the rehearsal of campaign {plan_hash[:12]} did not finish: {why}; see flower/rehearsal.log"
        )
        content = {"format": "synofed rehearsal 1", "plan_hash": plan_hash, "ended": f"not finished, {why}"}
        with suppress(SynofedError):
            place = decisions.folder(self.folder, plan_hash) / REHEARSAL
            atomic.write(place, (json.dumps(content) + "\n").encode(), mode=0o600)


def _last_round(site: Site, plan_hash: str) -> int:
    """The highest round of a campaign that was answered, as the log has it."""
    return max(
        (
            int(str(entry.content.get("server_round") or 0))
            for entry in chain.entries(site.folder / chain.NAME)
            if entry.content.get("event") == REPLY and entry.content.get("plan_hash") == plan_hash
        ),
        default=0,
    )
