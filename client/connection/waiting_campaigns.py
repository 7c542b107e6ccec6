"""Campaigns that wait for a decision: said once, and told once to somebody by the command of ``[notify]``.

What the command does is the site's own affair: it gets the campaign's name and hash, nothing of patients, and what
becomes of it stays here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from client.connection.looking import Task
from client.files import atomic
from client.site.site import Site
from client.state import decisions
from client.state.decisions import State, Status
from common.errors import SynofedError
from common.machine.processes import Backoff

LOOK_S = 5.0
"""Between two looks at what the site has been asked."""
LIMIT_S = 60.0
"""How long the command may run."""
NOTIFIED = "notified"
"""In a campaign's folder, once the command has succeeded: no restart of the site tells again."""


@dataclass(slots=True)
class WaitingCampaigns:
    """Tells of campaigns that nobody has decided on; see :class:`client.connection.looking.Duty`.

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
    _tell_at: float = 0.0

    def look(self, site: Site, *, busy: bool) -> Task | None:
        """Say what waits, and tell of the first that nobody was told of."""
        waiting = {h: state for h, state in decisions.listed(site).items() if state.status is Status.WAITING}
        for plan_hash, state in waiting.items():
            self._say_once(plan_hash, state)
        if busy or not site.file.notify.command or time.monotonic() < self._tell_at:
            return None
        untold = (h for h in waiting if h not in self._told and not _mark(site.folder, h).exists())
        first = next(untold, None)
        return None if first is None else self._telling(site, first, waiting[first].names[-1])

    def ended(self, task: Task, failure: str, *, started: bool) -> None:
        """Note that somebody was told, or when that is tried again."""
        if failure:
            wait_s = self.backoff.next_s(lived_s=0.0)
            self._tell_at = time.monotonic() + wait_s
            self.say(
                f"the command of [notify] in site.toml, for campaign {task.plan_hash[:12]}, {failure}. What it "
                f"printed is in flower/notify.log; it is tried again in {wait_s / 60:.0f} minutes"
            )
            return
        self._told.add(task.plan_hash)
        self.backoff.tries = 0
        with suppress(SynofedError):  # a full disk: told again at the next start
            now = datetime.now(UTC).isoformat(timespec="seconds")
            atomic.write(_mark(self.folder, task.plan_hash), f"{now}\n".encode())
        self.say(f"the command of [notify] has told of campaign {task.plan_hash[:12]}")

    def _say_once(self, plan_hash: str, state: State) -> None:
        if plan_hash not in self._said:
            self._said.add(plan_hash)
            self.say(
                f"campaign {state.names[-1]} waits for a decision: synofed site campaigns show {self.folder} "
                f"{plan_hash[:12]}"
            )

    def _telling(self, site: Site, plan_hash: str, name: str) -> Task:
        return Task(
            name="notify",
            plan_hash=plan_hash,
            command=site.file.notify.command,
            limit_s=self.limit_s,
            environment={
                "SYNOFED_CAMPAIGN": name,
                "SYNOFED_PLAN_HASH": plan_hash,
                "SYNOFED_SITE": site.name,
                "SYNOFED_SITE_FOLDER": str(site.folder.resolve()),
            },
        )


def _mark(site_folder: Path, plan_hash: str) -> Path:
    return decisions.folder(site_folder, plan_hash) / NOTIFIED
