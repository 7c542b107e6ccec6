"""Campaigns that wait for a decision: said once, and told once to somebody by the command of ``[notify]``.

The site's long-lived process looks at what its short-lived ones have kept of each plan that came. What the command
does is the site's own affair: it gets the campaign's name and hash, nothing of patients, and what becomes of it stays
here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from client.files import atomic
from client.site.site import Site
from client.state import decisions
from client.state.decisions import State, Status
from common.errors import SynofedError, explained
from common.machine.processes import Backoff, Service

LOOK_S = 5.0
"""Between two looks at what the site has been asked."""
LIMIT_S = 60.0
"""How long the command may run."""
STOP_S = 2.0
NOTIFIED = "notified"
"""In a campaign's folder, once the command has succeeded: no restart of the site tells again."""


@dataclass(slots=True)
class WaitingCampaigns:
    """Looks for campaigns that nobody has decided on; whatever fails here stops nothing.

    Args:
        folder: of the site.
        say: told what the site's people should see.
    """

    folder: Path
    say: Callable[[str], None]
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=300.0, longest_s=86_400.0))
    every_s: float = LOOK_S
    limit_s: float = LIMIT_S
    _said: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _telling: tuple[str, Service] | None = None
    _began: float = 0.0
    _look_at: float = 0.0
    _tell_at: float = 0.0

    def look(self) -> None:
        """Look once, and look after the command that runs."""
        if self._telling is not None:
            self._tend(*self._telling)
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + self.every_s
        with suppress(SynofedError):  # `synofed site check` says what of these files cannot be read
            site = Site.open(self.folder)
            for plan_hash, state in decisions.listed(site).items():
                if state.status is Status.WAITING:
                    self._waits(site, plan_hash, state)

    def stop(self) -> None:
        """End the command if it runs; it is tried again at the next start."""
        if self._telling is not None:
            self._telling[1].stop(grace_s=STOP_S)
            self._telling = None

    def _waits(self, site: Site, plan_hash: str, state: State) -> None:
        if plan_hash not in self._said:
            self._said.add(plan_hash)
            self.say(
                f"campaign {state.names[-1]} waits for a decision: synofed site campaigns show {site.folder} "
                f"{plan_hash[:12]}"
            )
        command = site.file.notify.command
        if not command or self._telling is not None or time.monotonic() < self._tell_at:
            return
        if plan_hash not in self._told and not _mark(site.folder, plan_hash).exists():
            self._tell(site, command, plan_hash, state.names[-1])

    def _tell(self, site: Site, command: Sequence[str], plan_hash: str, name: str) -> None:
        service = Service(
            name="notify",
            command=lambda: command,
            environment={
                **os.environ,
                "SYNOFED_CAMPAIGN": name,
                "SYNOFED_PLAN_HASH": plan_hash,
                "SYNOFED_SITE": site.name,
                "SYNOFED_SITE_FOLDER": str(site.folder.resolve()),
            },
            log=site.folder / "flower" / "notify.log",
        )
        try:
            service.start()
        except OSError as error:
            self._failed(plan_hash, f"could not be started ({explained(error)})")
            return
        self._telling, self._began = (plan_hash, service), time.monotonic()

    def _tend(self, plan_hash: str, service: Service) -> None:
        ended = service.process.poll() if service.process is not None else None
        if ended is None:
            if time.monotonic() - self._began >= self.limit_s:
                self.stop()
                self._failed(plan_hash, f"had not ended after {self.limit_s:g} s and was stopped")
            return
        self._telling = None
        if ended:
            self._failed(plan_hash, f"ended with code {ended}")
            return
        self._told.add(plan_hash)
        self.backoff.tries = 0
        with suppress(SynofedError):  # a full disk: told again at the next start
            now = datetime.now(UTC).isoformat(timespec="seconds")
            atomic.write(_mark(self.folder, plan_hash), f"{now}\n".encode())
        self.say(f"the command of [notify] has told of campaign {plan_hash[:12]}")

    def _failed(self, plan_hash: str, what: str) -> None:
        wait_s = self.backoff.next_s(lived_s=0.0)
        self._tell_at = time.monotonic() + wait_s
        self.say(
            f"the command of [notify] in site.toml, for campaign {plan_hash[:12]}, {what}. What it printed is in "
            f"flower/notify.log; it is tried again in {wait_s / 60:.0f} minutes"
        )


def _mark(site_folder: Path, plan_hash: str) -> Path:
    return decisions.folder(site_folder, plan_hash) / NOTIFIED
