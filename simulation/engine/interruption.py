"""Ctrl-C and SIGTERM while much is under way: what runs in other threads is left, and the process ends.

Nothing is lost by that: whatever a run needs to go on is on disk before it counts, as if the process had been killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

EXIT_CODE = 130
PATIENCE_S = 4.0
"""For what ends in an orderly way; a further signal is heard after it."""


@contextmanager
def interruptible() -> Iterator[None]:
    """While this lasts, SIGTERM interrupts as Ctrl-C does; impatience does not keep the end from being orderly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[float] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        came.append(time.monotonic())
        if len(came) == 1:
            raise KeyboardInterrupt
        if came[-1] - came[0] > PATIENCE_S:
            end("Interrupted.")

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def said() -> Iterator[None]:
    """A command that is interrupted says how to go on and ends, as :func:`interruptible` and :func:`end` have it."""
    with interruptible():
        try:
            yield
        except KeyboardInterrupt as error:
            end(f"Interrupted. {error}".rstrip())


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose work is waited for, unless this thread is interrupted: then what runs is left to itself."""
    pool = ThreadPoolExecutor(max_workers=count)
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
        raise
    pool.shutdown()


def end(text: str) -> NoReturn:
    """End an interrupted process without waiting for its threads; those of Ray and of a site train for long."""
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
    os._exit(EXIT_CODE)
