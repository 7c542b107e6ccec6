"""The centre's service: proxy, SuperLink and executor are kept running, sites let in and out, campaigns started.

One process, one thread, one look at everything twice a second. All that it knows is on disk, so that it can be killed
at any instant and started again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from common.errors import ConfigurationError, ConnectionLostError, SynofedError
from common.machine import file_lock, loopback
from common.machine.file_lock import LockedError
from common.machine.following import stamp
from common.machine.processes import Backoff, Service, until_signalled
from server.federation.home import Federation, Home
from server.federation.registry import Registry
from server.runs.runs import COMPLETE, ENDED, Attempts, CampaignStatus, Run, all_of
from server.service import control, presence, superlink
from server.service.control import Control, canonical

LOOK_S = 0.5
CAMPAIGNS_S = 1.0
"""Between two looks at the campaigns, for which the SuperLink is asked."""
FIRST_TRY_S = 5.0
LAST_TRY_S = 300.0
PRESENCE_S = 10.0
"""Between two looks at who is connected."""
MOST_TRIES = 12
"""Tries in a row without a round, after which a campaign has failed."""
DIED = "The campaign's process died without a word"
Say = Callable[[str], None]


@dataclass(slots=True)
class Centre:
    """The running service of one home.

    Args:
        home: of the centre.
        insecure: the proxy speaks plain HTTP.
        say: told what an operator should see.
    """

    home: Home
    insecure: bool
    say: Say
    federation: Federation = field(init=False)
    services: tuple[Service, ...] = field(init=False)
    _registered: object = field(init=False, default=None)
    _answers: bool = field(init=False, default=False)
    _next_look: float = field(init=False, default=0.0)
    _next_note: float = field(init=False, default=0.0)
    _trouble: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.federation = self.home.federation()
        link, executor = superlink.services(self.home, port=self.federation.superlink.port)
        self.services = (link, _proxy(self.home, self.federation, insecure=self.insecure), executor)
        for service in self.services:
            service.backoff = Backoff(first_s=1.0, longest_s=60.0)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; everything that was started has ended when this returns."""
        with locked(self.home), until_signalled() as ended:
            superlink.files(self.home).prepare()
            try:
                while not ended():
                    self.look()
                    time.sleep(LOOK_S)
            finally:
                for service in reversed(self.services):
                    service.stop()

    def look(self) -> None:
        """Look after everything once."""
        for service in self.services:
            printed = service.tend()
            if printed is not None:
                self._answers = False
                self._registered = None
                self.say(
                    f"{service.name} ended, it starts again in {service.waits_s:.0f} s; {service.log} says why: "
                    f"{_last_line(printed)}"
                )
        try:
            with control.connect(
                self.federation.superlink.port, superlink.files(self.home).authority
            ) as link:
                self._let_in_and_out(link)
                self._note_who_is_there(link)
                self._tend_campaigns(link)
        except ConnectionLostError as error:
            if self._answers:
                self.say(str(error))
            self._answers = False
        except SynofedError as error:
            self.say(str(error))
        else:
            if not self._answers:
                self.say("the SuperLink answers")
            self._answers = True

    def _let_in_and_out(self, link: Control) -> None:
        """Make the SuperLink's nodes those that are registered, whenever the registry has changed."""
        found = stamp(self.home.registry)
        if found == self._registered:
            return
        wanted = {canonical(site.node_key): site.name for site in Registry.open(self.home.path).registered()}
        known = link.nodes()
        for node in known:
            if wanted.get(node.key) != node.name:
                link.unregister(node.node_id)
                self.say(f"{node.name} is shut out")
        there = {node.key for node in known if wanted.get(node.key) == node.name}
        for key, name in wanted.items():
            if key not in there:
                link.register(name, key)
                self.say(f"{name} may connect")
        self._registered = found

    def _note_who_is_there(self, link: Control) -> None:
        if time.monotonic() >= self._next_note:
            self._next_note = time.monotonic() + PRESENCE_S
            with suppress(OSError):  # the disk may be full; it is noted again
                presence.write(self.home, link.nodes())

    def _tend_campaigns(self, link: Control) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + CAMPAIGNS_S
        active: frozenset[int] | None = None
        for run in all_of(self.home):
            try:
                if not _settled(run):
                    active = link.active() if active is None else active
                    _Tended(run, link, active, self.say).tend()
                self._trouble.pop(run.name, None)
            except ConfigurationError as error:
                self.say(f"{run.name}: {error}")
            except OSError as error:
                self._tell_once(
                    run.name, f"nothing can be written ({error.strerror}); free some space, it goes on"
                )

    def _tell_once(self, campaign: str, trouble: str) -> None:
        if self._trouble.get(campaign) != trouble:
            self._trouble[campaign] = trouble
            self.say(f"{campaign}: {trouble}")


def _settled(run: Run) -> bool:
    """Whether there is nothing to do for a campaign, whatever Flower does."""
    wish, status = run.wish(), run.status()
    return status.state in ENDED and (wish.wanted == "stop" or wish.asked == run.attempts().asked)


@dataclass(frozen=True, slots=True)
class _Tended:
    """One campaign, as one look finds it."""

    run: Run
    link: Control
    active: frozenset[int]
    say: Say

    def tend(self) -> None:
        wish, status, attempts = self.run.wish(), self.run.status(), self.run.attempts()
        alive = attempts.run_id in self.active
        if wish.wanted == "stop":
            self._stop(status, attempts, alive=alive)
        elif alive and status.state == "RUNNING" and file_lock.holder(self.run.path) is None:
            self._bury(attempts)
        elif not alive and (status.state not in ENDED or wish.asked != attempts.asked):
            if status.state in COMPLETE:
                return
            if wish.asked != attempts.asked:
                attempts = Attempts(asked=wish.asked)
            self._start(status, attempts)

    def _bury(self, attempts: Attempts) -> None:
        """End the run of a process that is gone: killed, unless its last word came since the status was read."""
        last = self.run.status()
        if last.state == "RUNNING":  # Flower would wait for its heartbeat for a minute
            self.run.write_status(last.model_copy(update={"state": "INTERRUPTED", "reason": DIED}))
            self.link.stop(attempts.run_id)

    def _stop(self, status: CampaignStatus, attempts: Attempts, *, alive: bool) -> None:
        if alive:
            self.link.stop(attempts.run_id)
        if status.state not in ENDED:
            self.run.write_status(status.model_copy(update={"state": "STOPPED", "reason": "by the operator"}))
        if alive:
            self.say(f"{self.run.name} is stopped")

    def _start(self, status: CampaignStatus, attempts: Attempts) -> None:
        """Start the campaign's process if it is due; one that died has waited ever longer."""
        rounds = len(self.run.rounds())
        if rounds > attempts.rounds:
            attempts = attempts.model_copy(update={"tries": 0, "rounds": rounds})
        if attempts.run_id and not attempts.not_before:
            wait = min(LAST_TRY_S, FIRST_TRY_S * 2.0**attempts.tries)
            if attempts.tries >= MOST_TRIES:
                reason = f"{MOST_TRIES} attempts in a row completed no round. {status.reason}"
                self.run.write_status(status.model_copy(update={"state": "FAILED", "reason": reason}))
                self.say(f"{self.run.name} has failed: {reason}")
                return
            self.run.write_status(status.model_copy(update={"state": "INTERRUPTED"}))
            self.run.write_attempts(
                attempts.model_copy(update={"not_before": time.time() + wait, "tries": attempts.tries + 1})
            )
            self.say(f"{self.run.name} was interrupted, the next try is in {wait:.0f} s. {status.reason}")
            return
        if time.time() < attempts.not_before:
            return
        self.run.write_status(status.model_copy(update={"state": "STARTING", "reason": ""}))
        run_id = self.link.start(self.run.name)
        self.run.write_attempts(
            attempts.model_copy(update={"run_id": run_id, "not_before": 0.0, "rounds": rounds})
        )
        self.say(f"{self.run.name} starts")


def _proxy(home: Home, federation: Federation, *, insecure: bool) -> Service:
    files = superlink.files(home)
    host = f"[{federation.proxy.host}]" if ":" in federation.proxy.host else federation.proxy.host
    tls = ("--certificate", str(home.server_certificate), "--key", str(home.server_key))
    command = [
        *(sys.executable, "-P", "-m", "server.service.proxy"),
        *("--listen", f"{host}:{federation.proxy.port}"),
        *("--upstream", f"https://{loopback.ADDRESS}:{federation.superlink.port}"),
        *("--upstream-ca", str(files.authority)),
        *("--log", str(files.folder / "proxy.access.log")),
        *(("--insecure",) if insecure else tls),
    ]
    return Service(
        name="proxy", command=lambda: command, environment=os.environ, log=files.folder / "proxy.log"
    )


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Keeps a second service from the same home.

    Raises:
        ConfigurationError: if there is one.
    """
    home.superlink.mkdir(mode=0o700, exist_ok=True)
    try:
        with file_lock.alone(home.superlink):
            yield
    except LockedError as error:
        raise ConfigurationError(f"The centre at {home.path} is up already, as process {error}") from None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"
