"""Waiting for what other processes and threads do: how fast that is decides no test."""

import time
from collections.abc import Callable

PATIENCE_S = 500.0
"""How long anything is waited for; less than a test's timeout, so that it can say what did not come."""


def wait_for(holds: Callable[[], bool], *, every_s: float = 0.05, told: Callable[[], str] = str) -> None:
    """Wait until something holds.

    Args:
        holds: what is waited for.
        every_s: how often it is asked, in seconds.
        told: what is shown if it never does.

    Raises:
        AssertionError: if it does not within :data:`PATIENCE_S` seconds.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(every_s)
