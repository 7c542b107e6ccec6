"""Private campaigns whose last round was answered: their step is rehearsed here, once, within minutes.

Another process does it, which reads the plan and nothing of any patient. What came of it is kept in the campaign's
folder, stands in ``synofed privacy audit``, and is sent nowhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.connection.looking import Task
from client.files import atomic
from client.log import chain
from client.log.audit import REPLY
from client.site.site import Site
from client.state import decisions
from client.state.decisions import REHEARSAL, Status
from common.errors import SynofedError

LOOK_S = 60.0
"""Between two looks for a campaign that has ended."""
MODULE = "client.evidence.rehearsed"


@dataclass(slots=True)
class FinishedCampaigns:
    """Has private campaigns that have ended rehearsed; see :class:`client.connection.looking.Duty`.

    Args:
        folder: of the site.
        say: told what the site's people should see.
    """

    folder: Path
    say: Callable[[str], None]
    every_s: float = LOOK_S
    _tried: set[str] = field(default_factory=set)

    def look(self, site: Site, *, busy: bool) -> Task | None:
        """The next campaign that has ended."""
        if busy or not site.file.audit.after_campaigns:
            return None
        plan_hash = next(self._ended(site), None)
        if plan_hash is None:
            return None
        self._tried.add(plan_hash)
        return Task(
            name="rehearsal",
            plan_hash=plan_hash,
            command=[sys.executable, "-P", "-m", MODULE, str(site.folder.resolve()), plan_hash],
            limit_s=60 * site.file.audit.minutes,
        )

    def ended(self, task: Task, failure: str, *, started: bool) -> None:
        """Say what came of it; one that did not finish is not begun again."""
        if not failure:
            self.say(
                f"the private step of campaign {task.plan_hash[:12]} was rehearsed: synofed privacy audit "
                f"{self.folder}"
            )
            return
        self.say(
            f"the rehearsal of campaign {task.plan_hash[:12]} {failure} (it has [audit] minutes of site.toml); see "
            f"flower/rehearsal.log"
        )
        if started:
            content = {
                "format": "synofed rehearsal 1",
                "plan_hash": task.plan_hash,
                "ended": f"not finished, it {failure}",
            }
            with suppress(SynofedError):
                place = decisions.folder(self.folder, task.plan_hash) / REHEARSAL
                atomic.write(place, (json.dumps(content) + "\n").encode(), mode=0o600)

    def _ended(self, site: Site) -> Iterator[str]:
        from common.methods.rounds import longest_stage_rounds  # noqa: PLC0415  NumPy

        for plan_hash, state in decisions.listed(site).items():
            kept = decisions.folder(site.folder, plan_hash) / REHEARSAL
            if state.status is Status.WAITING or plan_hash in self._tried or kept.exists():
                continue
            settings = decisions.plan(site, plan_hash, name=state.names[-1])
            if settings.private and _last_round(site, plan_hash) >= longest_stage_rounds(settings):
                yield plan_hash


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
