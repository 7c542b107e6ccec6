"""Keeping a site joined: its SuperNode and executor run, and start again for ever when they end.

Only outbound connections are made. Why a connection ended is said in one line, from what Flower printed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from client.connection import enrolment
from client.connection.enrolment import Enrolment
from client.connection.finished_campaigns import FinishedCampaigns
from client.connection.looking import Looking
from client.connection.supernode import Joining, free_port, prepare, services
from client.connection.tls import explain_tls, failure
from client.connection.waiting_campaigns import WaitingCampaigns
from client.site import keys
from client.site.site import Site, proxy_objection
from common.errors import ConfigurationError, ConnectionLostError, DataError, SynofedError, explained
from common.machine import atomic, file_lock
from common.machine.file_lock import LockedError
from common.machine.processes import Backoff, Service, until_signalled

LOOK_S = 0.5
STOP_S = 8.0
CONNECTED = "SuperNode ID:"
QUIET_S = 5.0
"""What keeps a SuperNode that has not connected by then is looked for; again when it has lived twice as long."""
PROBE_S = 8.0
TRY_S = 60.0
"""How long a SuperNode may take to connect once."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A disk on which there may be room again."""
Say = Callable[[str], None]

_NOT_ACTIVATED = re.compile(r"\[code: 2004\]|could not be activated|No SuperNode found")
_UNAUTHORIZED = re.compile(r"401 Unauthorized|Invalid SuperNode authentication")
_EXIT_CODE = re.compile(r"Exit Code: (\d+)")
_VERSION_CODE = "606"


def joining(folder: Path) -> Joining:
    """What a site's SuperNode is started with, once everything is there.

    Raises:
        DataError: if the site is not enrolled, or its keys are not there or can be read by others.
        ConfigurationError: if ``site.toml`` or the authority's certificate cannot be used.
    """
    folder = folder.resolve()
    site = Site.open(folder)
    enrolled = Enrolment.open(folder)
    if enrolled.site != site.name:
        raise ConfigurationError(
            f"Expected the name {enrolled.site!r} of federation.json in site.toml, got {site.name!r}: put it back, "
            f"the centre knows the site by it"
        )
    for key in (enrolment.node_key(folder), keys.path(folder)):
        _check_key(key)
    return Joining(
        folder=folder,
        address=enrolled.address,
        device=site.file.compute.device,
        threads=site.file.compute.threads,
        proxy=_proxy(site.file.network.proxy),
    )


@dataclass(slots=True)
class Joined:
    """A site that is kept joined.

    Args:
        folder: of the site.
        say: told what the site's people should see.
    """

    folder: Path
    say: Say
    backoff: Backoff = field(default_factory=Backoff)
    _services: tuple[Service, ...] = ()
    _address: str = ""
    _connected: bool = False
    _started: float = 0.0
    _due: float = 0.0
    _ask_at: float = math.inf

    def run(self, *, once: bool = False) -> None:
        """Stay joined until SIGTERM or SIGINT; everything that was started has ended when this returns.

        Args:
            once: do not start again after the first end.

        Raises:
            ConnectionLostError: with ``once``, why it ended.
            SynofedError: at the start, as :func:`joining`.
            OSError: at the start, if the site's folder cannot be written for another reason than a full disk.
        """
        joining(self.folder)
        duties = WaitingCampaigns(self.folder, self.say), FinishedCampaigns(self.folder, self.say)
        campaigns = [Looking(self.folder, duty) for duty in duties]
        with until_signalled() as ended, ExitStack() as stack:
            while not ended() and not self._locked(stack):
                time.sleep(LOOK_S)
            try:
                while not ended():
                    lost = self.look()
                    if lost is not None and once:
                        raise lost
                    for one in campaigns:
                        one.look()
                    time.sleep(LOOK_S)
            finally:
                for one in campaigns:
                    one.stop()
                self._stop()
                self._note("left", "")

    def look(self) -> ConnectionLostError | None:
        """Look after the processes once.

        Returns:
            Why they ended, if they just did.
        """
        if not self._services:
            if time.monotonic() >= self._due:
                self._start()
            return None
        if all(service.running for service in self._services):
            if not self._connected:
                self._look_for_connection(self._services[0].output())
            return None
        return self._lost()

    def _start(self) -> None:
        try:
            start = joining(self.folder)  # anew each time: its files may have been put right
            prepare(start)
            self._services = services(start, port=free_port())
            self._address, self._connected = start.address, False
            self._started = time.monotonic()
            self._ask_at = self._started + QUIET_S
            self._note("connecting", "")
            for service in self._services:
                service.start()
        except (SynofedError, OSError) as error:
            self._stop()
            self._wait(explained(error) if isinstance(error, OSError) else str(error), lived_s=0.0)

    def _locked(self, stack: ExitStack) -> bool:
        """Whether the site is now this process's own; a full disk is waited for."""
        if time.monotonic() < self._due:
            return False
        try:
            stack.enter_context(locked(self.folder))
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._wait(explained(error), lived_s=0.0)
            return False
        return True

    def _look_for_connection(self, printed: str) -> None:
        """Whether the SuperNode has connected; where it tries in silence, what keeps it is said once."""
        now = time.monotonic()
        if CONNECTED in printed:
            self._connected = True
            self._note("connected", "")
            self.say(f"connected to {self._address}")
        elif now >= self._ask_at:
            reason = what_keeps(self.folder, printed, address=self._address)
            self._ask_at = math.inf if reason else now + (now - self._started)
            if reason:
                self._note("connecting", reason)
                self.say(f"{reason}. It goes on trying")

    def _lost(self) -> ConnectionLostError:
        node, executor = self._services
        error = (
            explain(node.output(), address=self._address, was_connected=self._connected)
            if not node.running
            else ConnectionLostError(f"The process that runs the training ended: see {executor.log}")
        )
        self._stop()
        self._wait(str(error), lived_s=time.monotonic() - self._started if self._connected else 0.0)
        return error

    def _wait(self, reason: str, *, lived_s: float) -> None:
        wait = self.backoff.next_s(lived_s=lived_s)
        self._due = time.monotonic() + wait
        self._note("waiting", reason)
        self.say(f"{reason}. The next try is in {wait:.0f} s")

    def _stop(self) -> None:
        for service in self._services:
            service.stop(grace_s=STOP_S)
        self._services = ()

    def _note(self, state: str, reason: str) -> None:
        """What ``synofed site status`` shows; where the disk is full, it shows what was noted before.

        It is noted before it is said: who reads of a change finds it in the file.
        """
        content = {
            "state": state,
            "reason": reason,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "address": self._address,
        }
        with suppress(OSError):
            atomic.write(state_file(self.folder), (json.dumps(content) + "\n").encode())


def state_file(folder: Path) -> Path:
    """Where a site's connection stands: ``state``, ``reason``, ``since``, ``pid``, ``address``."""
    return folder / "flower" / "state.json"


def noted(folder: Path) -> dict[str, str]:
    """What ``state_file`` says while a process has joined the site; else nothing."""
    place = state_file(folder)
    if not (place.exists() and runs(folder)):
        return {}
    content: dict[str, object] = json.loads(place.read_text(encoding="utf-8"))
    return {name: str(value) for name, value in content.items()}


def is_let_in(folder: Path) -> bool:
    """Whether the centre lets a site in: its SuperNode connects once and leaves; nothing is there that could train.

    Raises:
        ConnectionLostError: if something else keeps it from the centre.
        ConfigurationError: if the site is joined already, or as :func:`joining`.
        DataError: as :func:`joining`.
    """
    start = joining(folder)
    with locked(start.folder):
        prepare(start)
        node, _ = services(start, port=free_port())
        node.start()
        try:
            until = time.monotonic() + TRY_S
            while node.running and CONNECTED not in node.output() and time.monotonic() < until:
                time.sleep(LOOK_S)
            ended, printed = not node.running, node.output()
        finally:
            node.stop(grace_s=STOP_S)
    if CONNECTED in printed:
        return True
    if _NOT_ACTIVATED.search(printed):
        return False
    if ended:
        raise explain(printed, address=start.address, was_connected=False)
    reason = what_keeps(start.folder, printed, address=start.address)
    raise ConnectionLostError(
        reason or f"{start.address} let nobody in within {TRY_S:.0f} s: try again later"
    )


def explain(printed: str, *, address: str, was_connected: bool) -> ConnectionLostError:
    """Why a SuperNode ended.

    Args:
        printed: by it.
        address: of the centre.
        was_connected: whether it had been connected before it ended.
    """
    code = _EXIT_CODE.search(printed)
    if _NOT_ACTIVATED.search(printed):
        return ConnectionLostError(
            "The centre does not let this site in. Either it has not accepted request.json yet, or it has revoked "
            "the site: ask it. Or this site was connected until a moment ago, here or from a copy of its folder: "
            "then it is let in again within a minute"
        )
    if _UNAUTHORIZED.search(printed) or (code is None and "terminated gracefully" in printed):
        before = "The centre has revoked this site, or" if was_connected else "Most likely"
        return ConnectionLostError(
            f"The centre refused this site's signature. {before} this machine's clock (now "
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC) is off: synofed site check compares it with the centre's"
        )
    if code is not None and code.group(1) == _VERSION_CODE:
        return ConnectionLostError(
            "The centre runs another version of Flower: install the version of synofed that it runs"
        )
    if failure(printed) != "unknown":
        return explain_tls(printed, address=address)
    return ConnectionLostError(f"The connection ended: {_last_line(printed)}")


def what_keeps(folder: Path, printed: str, *, address: str) -> str:
    """Why a SuperNode that runs has not connected yet.

    Args:
        folder: of the site.
        printed: by the SuperNode so far; where it says nothing of use, the centre is asked for its health.
        address: of the centre.

    Returns:
        A sentence; empty where nothing seems to keep it.
    """
    if failure(printed) != "unknown":
        return str(explain_tls(printed, address=address))
    from client.connection.connection import look  # noqa: PLC0415  httpx: only where something is amiss

    try:
        proxy = Site.open(folder).file.network.proxy.get_secret_value()
        seen = look(address, enrolment.ca_certificate(folder), forward_proxy=proxy, wait_s=PROBE_S)
    except SynofedError as error:
        return str(error)
    if seen.proxy and not seen.superlink:
        return f"{address} is reached, but the centre behind it is down: it has to look at it"
    return ""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a site from being joined twice.

    Raises:
        ConfigurationError: if it is joined already.
    """
    place = folder / "flower"
    place.mkdir(mode=0o700, exist_ok=True)
    try:
        with file_lock.alone(place):
            yield
    except LockedError as error:
        raise ConfigurationError(
            f"This site is joined already, by process {str(error) or 'unknown'}: end that one first"
        ) from None


def runs(folder: Path) -> bool:
    """Whether a process has joined this site."""
    return file_lock.is_held(folder / "flower" / file_lock.NAME)


def _check_key(key: Path) -> None:
    try:
        mode = key.stat().st_mode
    except OSError:
        raise DataError(
            f"Expected a key at {key}: restore it from a backup, or run synofed site init again"
        ) from None
    if mode & 0o077:
        raise DataError(f"Other accounts can read {key}: chmod 600 {key}, and ask who has read it")


def _proxy(url: SecretStr) -> dict[str, SecretStr]:
    """The variables by which the SuperNode's HTTP client knows a forward proxy.

    Raises:
        ConfigurationError: if there is none, and the one in the environment cannot be used.
    """
    names = ("HTTPS_PROXY", "https_proxy")
    if url.get_secret_value():
        return dict.fromkeys(names, url)
    for name in names:
        problem = proxy_objection(os.environ.get(name, ""))
        if problem:
            raise ConfigurationError(f"The variable {name} of the environment cannot be used: {problem}")
    return {}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"
