"""Child processes that are looked after: they end with their parent, and start again when they die.

Used by the supervisors of both sides; nothing else in ``common`` touches processes.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

LOG_BYTES = 10_000_000
STOP_S = 10.0
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True, kw_only=True)
class Backoff:
    """How long to wait before the next try: doubled each time, jittered, from ``first_s`` to ``longest_s``.

    Attributes:
        settled_s: a process that lived so long starts again at ``first_s``.
    """

    first_s: float = 5.0
    longest_s: float = 300.0
    settled_s: float = 120.0
    tries: int = 0
    jitter: Callable[[], float] = random.random

    def next_s(self, *, lived_s: float) -> float:
        """The next wait in seconds: between half of and the whole of the doubled time."""
        if lived_s >= self.settled_s:
            self.tries = 0
        wait = min(self.longest_s, self.first_s * 2.0 ** min(self.tries, 30))
        self.tries += 1
        return wait * (0.5 + 0.5 * self.jitter())


@dataclass(slots=True, kw_only=True)
class Service:
    """One child process that is kept running.

    Attributes:
        name: said in logs.
        command: made anew at each start.
        environment: the whole environment of the child.
        log: what it prints; the file of ten million bytes and more is moved aside at a start.
        backoff: between starts.
    """

    name: str
    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str] = field(repr=False)  # it may hold a login
    log: Path
    backoff: Backoff = field(default_factory=Backoff)
    process: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    _started: float = 0.0
    _due: float = 0.0

    @property
    def running(self) -> bool:
        """Whether the child lives."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the child, the leader of a process group of its own; it gets SIGTERM when this process dies."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as output:
            self.log_start = output.tell()
            self.process = subprocess.Popen(
                list(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 (supervisors have one thread)
            )
        self._started = time.monotonic()

    def tend(self) -> str | None:
        """Look after the child: start it if it is due.

        Returns:
            What it printed, once, when it was found dead; else ``None``.
        """
        if self.process is None:
            if time.monotonic() >= self._due:
                self.start()
            return None
        if self.process.poll() is None:
            return None
        end_group(self.process, grace_s=0.0)
        now = time.monotonic()
        self._due = now + self.backoff.next_s(lived_s=now - self._started)
        self.process = None
        return self.output()

    @property
    def waits_s(self) -> float:
        """Seconds until the next start of a dead child."""
        return max(0.0, self._due - time.monotonic())

    def output(self) -> str:
        """What the child printed since it was last started; the last 64 KiB."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.log_start, size - 65536))
            return file.read().decode(errors="replace")

    def stop(self, *, grace_s: float = STOP_S) -> None:
        """End the child and all that it started: SIGTERM, and after ``grace_s`` seconds SIGKILL."""
        if self.process is not None:
            end_group(self.process, grace_s=grace_s)
            self.process = None


def end_group(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End a process and its group, and reap it; what is left after ``grace_s`` seconds is killed."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace_s)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def until_signalled() -> Iterator[Callable[[], bool]]:
    """While this lasts, SIGTERM and SIGINT end nothing; the function that it gives says whether one came."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _die_with(parent: int) -> Callable[[], None] | None:
    """Ask Linux to end the child when its parent is gone, however that died; elsewhere there is no such way."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGTERM)

    return ask
