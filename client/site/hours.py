"""Hours as people write them, and as windows of the UTC week, which the centre understands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES
Windows = tuple[tuple[int, int], ...]

_ENTRY = re.compile(
    r"(?P<days>[a-z]{3}(?:-[a-z]{3})?(?:,[a-z]{3}(?:-[a-z]{3})?)*|daily)"
    r"(?:\s+(?P<start>\d{1,2}:\d\d)-(?P<end>\d{1,2}:\d\d))?"
)


def parse(text: str) -> tuple[tuple[int, ...], int, int]:
    """One entry of ``policy.hours``.

    Args:
        text: days and times, for example ``mon-fri 19:00-07:00``, ``sat,sun`` (the whole day) or
            ``daily 20:00-24:00``. A window that ends at or before its start ends on the next day.

    Returns:
        Days (0: Monday), and the window's start and end in minutes after their midnight; the end is later.

    Raises:
        ValueError: saying what was expected.
    """
    found = _ENTRY.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(
            f"expected hours like 'mon-fri 19:00-07:00', 'sat,sun' or 'daily 20:00-06:00', got {text!r}"
        )
    start, end = _minutes(found["start"] or "0:00"), _minutes(found["end"] or "24:00")
    if start == DAY_MINUTES:
        raise ValueError(f"expected a start before 24:00, got {text!r}")
    return _days(found["days"]), start, end if end > start else end + DAY_MINUTES


def utc_windows(entries: Sequence[str], *, now: datetime, zone: tzinfo | None) -> Windows:
    """When the entries of ``policy.hours`` are open, with the clock's offset of this week.

    Args:
        entries: as in ``policy.hours``; none: always.
        now: an instant of the week that is meant.
        zone: whose clock the entries follow; ``None``: this machine's.

    Returns:
        Windows ``[start, end)`` in minutes of the UTC week, which begins on Monday at 00:00: in order, apart from
        each other; none: always.
    """
    local = now.astimezone(zone)
    monday = local.date() - timedelta(days=local.weekday())
    spans: list[tuple[int, int]] = []
    for days, start, end in map(parse, entries):
        for day in days:
            midnight = datetime.combine(monday + timedelta(days=day), time())
            first, last = (_instant(midnight + timedelta(minutes=m), zone) for m in (start, end))
            begins = minute_of_week(first)
            spans += _wrapped(begins, begins + round((last - first).total_seconds()) // 60)
    return _merged(spans)


def is_open(found: Windows, now: datetime) -> bool:
    """Whether an instant lies in one of the windows; none: always."""
    return not found or any(start <= minute_of_week(now) < end for start, end in found)


def minute_of_week(instant: datetime) -> int:
    """Minutes since Monday 00:00 UTC."""
    utc = instant.astimezone(UTC)
    return utc.weekday() * DAY_MINUTES + utc.hour * 60 + utc.minute


def _instant(local: datetime, zone: tzinfo | None) -> datetime:
    return (local.replace(tzinfo=zone) if zone is not None else local.astimezone()).astimezone(UTC)


def _minutes(text: str) -> int:
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours * 60 + minutes > DAY_MINUTES:
        raise ValueError(f"expected a time from 0:00 to 24:00, got {text!r}")
    return hours * 60 + minutes


def _days(text: str) -> tuple[int, ...]:
    if text == "daily":
        return tuple(range(7))
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        unknown = [day for day in (first, last or first) if day not in DAYS]
        if unknown:
            raise ValueError(f"expected days among {', '.join(DAYS)}, got {unknown[0]!r}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found += [(begin + step) % 7 for step in range((end - begin) % 7 + 1)]
    return tuple(dict.fromkeys(found))


def _wrapped(start: int, end: int) -> list[tuple[int, int]]:
    """A window that may run past the end of the week, as windows of one week."""
    if end <= WEEK_MINUTES:
        return [(start, end)]
    return [(start, WEEK_MINUTES), (0, end - WEEK_MINUTES)]


def _merged(spans: Iterable[tuple[int, int]]) -> Windows:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return tuple(merged)
