"""When a site is open, and when an allowance of its open time will have passed.

A site announces its hours as windows ``[start, end)`` in minutes of the UTC week, which begins on Monday at 00:00.
No windows: always open. Times are POSIX seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Windows = Sequence[tuple[int, int]]

WEEK_S = 7 * 24 * 3600
EPOCH_S = 4 * 24 * 3600
"""The first Monday of POSIX time: 5 January 1970."""


def opens(windows: Windows, now: float) -> float:
    """The first instant from ``now`` on at which the site is open."""
    return next(start for start, _ in _spans(windows, now))


def due(windows: Windows, now: float, allowance_s: float) -> float:
    """The instant at which the site will have been open for ``allowance_s`` seconds, counted from ``now``."""
    left = allowance_s
    for start, end in _spans(windows, now):
        if left <= end - start:
            return start + left
        left -= end - start
    raise AssertionError("a week follows every week")


def _spans(windows: Windows, now: float) -> Iterator[tuple[float, float]]:
    """The open spans from ``now`` on, in order, without end."""
    if not windows:
        yield now, float("inf")
        return
    monday = now - (now - EPOCH_S) % WEEK_S
    while True:
        for start, end in sorted(windows):
            first, last = max(now, monday + 60 * start), monday + 60 * end
            if first < last:
                yield first, last
        monday += WEEK_S
