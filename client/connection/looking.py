"""What a site's long-lived process looks at beside its connection: its campaigns, and a command for one at a time.

The site's short-lived processes keep what came of each campaign; a duty looks at that and may ask for a command,
which is ended when its time is up. Whatever fails here stops nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from client.site.site import Site
from common.errors import SynofedError, explained
from common.machine.processes import Service

STOP_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A command for one campaign.

    Attributes:
        name: what it prints is in ``flower/<name>.log`` of the site's folder.
        plan_hash: of the campaign.
        command: and its arguments.
        limit_s: how long it may run.
        environment: beside that of the site's process.
    """

    name: str
    plan_hash: str
    command: Sequence[str]
    limit_s: float
    environment: Mapping[str, str] = field(default_factory=dict)


class Duty(Protocol):
    """What is looked for, and what becomes of it."""

    every_s: float
    """Between two looks."""

    def look(self, site: Site, *, busy: bool) -> Task | None:
        """Look once, and say what to start; ``busy``: a command still runs, and nothing is started."""

    def ended(self, task: Task, failure: str, *, started: bool) -> None:
        """A command has ended; ``failure``: empty, or what went wrong, to follow its name."""


@dataclass(slots=True)
class Looking:
    """Looks at a site's campaigns, and after the command that runs.

    Args:
        folder: of the site.
        duty: what for.
    """

    folder: Path
    duty: Duty
    _running: tuple[Task, Service] | None = None
    _began: float = 0.0
    _look_at: float = 0.0

    def look(self) -> None:
        """Look once."""
        if self._running is not None:
            self._tend(*self._running)
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + self.duty.every_s
        with suppress(SynofedError):  # `synofed site check` says what of these files cannot be read
            task = self.duty.look(Site.open(self.folder), busy=self._running is not None)
            if task is not None and self._running is None:
                self._start(task)

    def stop(self) -> None:
        """End the command if it runs; it is begun again at the next start."""
        if self._running is not None:
            self._running[1].stop(grace_s=STOP_S)
            self._running = None

    def _start(self, task: Task) -> None:
        service = Service(
            name=task.name,
            command=lambda: task.command,
            environment={**os.environ, **task.environment},
            log=self.folder / "flower" / f"{task.name}.log",
        )
        try:
            service.start()
        except OSError as error:
            self.duty.ended(task, f"could not be started ({explained(error)})", started=False)
            return
        self._running, self._began = (task, service), time.monotonic()

    def _tend(self, task: Task, service: Service) -> None:
        code = service.process.poll() if service.process is not None else None
        if code is None and time.monotonic() - self._began < task.limit_s:
            return
        failure = f"ended with code {code}" if code else ""
        if code is None:
            self.stop()
            failure = f"had not ended after {task.limit_s:g} s and was stopped"
        self._running = None  # what a command that ended has left behind, such as a mail on its way, goes on
        self.duty.ended(task, failure, started=True)
