"""Finds the processes of a real federation, so that they can be killed, stopped or measured."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.deployment.federation import Federation


def descendants(pid: int) -> Iterator[int]:
    """All processes that a process has started, and theirs."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from descendants(child)


def command(pid: int) -> str:
    """A process's command line; empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def find(federation: Federation, name: str, words: str) -> list[int]:
    """Processes under one of the federation's whose command line has these words."""
    return [pid for pid in descendants(federation.processes[name].pid) if words in command(pid)]


def tasks(federation: Federation, site: str) -> list[int]:
    """The site's processes that answer a message: what the executor's fork server has forked."""
    return [
        task
        for executor in find(federation, site, "guarded_supernode executor")
        for server in descendants(executor)
        for task in descendants(server)
    ]


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.Signals(number))
