from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site import hours

COPENHAGEN = ZoneInfo("Europe/Copenhagen")
WINTER = datetime(2026, 1, 7, 12, 0, tzinfo=UTC)
SUMMER = datetime(2026, 7, 8, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mon 19:00-20:30", ((0,), 19 * 60, 20 * 60 + 30)),
        ("mon-fri 19:00-07:00", ((0, 1, 2, 3, 4), 19 * 60, 31 * 60)),
        ("Fri-Mon 8:00-9:00", ((4, 5, 6, 0), 8 * 60, 9 * 60)),
        ("sat,sun", ((5, 6), 0, 24 * 60)),
        ("mon-tue,thu 20:00-24:00", ((0, 1, 3), 20 * 60, 24 * 60)),
        ("daily 6:00-6:00", (tuple(range(7)), 6 * 60, 30 * 60)),
    ],
)
def test_hours_are_read_as_people_write_them(text: str, expected: tuple[tuple[int, ...], int, int]) -> None:
    assert hours.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "19:00-07:00", "mon19:00-07:00", "mon 19-07", "mon 24:00-07:00", "mon 19:60-20:00", "xyz", "mon-"],
)
def test_other_hours_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        hours.parse(text)


def test_windows_follow_the_zone_and_its_summer_time() -> None:
    entries = ["mon 19:00-21:00"]
    assert hours.utc_windows(entries, now=WINTER, zone=COPENHAGEN) == ((18 * 60, 20 * 60),)
    assert hours.utc_windows(entries, now=SUMMER, zone=COPENHAGEN) == ((17 * 60, 19 * 60),)


def test_a_window_over_the_end_of_the_week_is_cut_in_two() -> None:
    found = hours.utc_windows(["sun 19:00-07:00"], now=WINTER, zone=UTC)
    assert found == ((0, 7 * 60), (6 * 1440 + 19 * 60, 7 * 1440))
    early = hours.utc_windows(["mon 0:00-2:00"], now=WINTER, zone=COPENHAGEN)
    assert early == ((0, 60), (7 * 1440 - 60, 7 * 1440))


def test_windows_that_touch_become_one_and_none_is_always() -> None:
    assert hours.utc_windows(["daily"], now=WINTER, zone=UTC) == ((0, 7 * 1440),)
    assert hours.utc_windows([], now=WINTER, zone=UTC) == ()
    assert hours.is_open((), WINTER)
    assert hours.utc_windows(["mon 1:00-3:00", "mon 2:00-4:00"], now=WINTER, zone=UTC) == ((60, 240),)


@given(
    st.integers(0, 7 * 1440 - 1),
    st.sampled_from(["UTC", "Europe/Copenhagen", "Asia/Kolkata", "America/St_Johns"]),
)
def test_an_instant_is_open_as_the_local_clock_says(minute: int, zone: str) -> None:
    now = datetime(2026, 7, 6, tzinfo=UTC) + timedelta(minutes=minute)  # a week without a change of clocks
    local = now.astimezone(ZoneInfo(zone))
    evening = local.hour >= 19 and local.weekday() < 5
    morning = local.hour < 7 and 0 < local.weekday() < 6
    found = hours.utc_windows(["mon-fri 19:00-07:00"], now=now, zone=ZoneInfo(zone))
    assert hours.is_open(found, now) == (evening or morning)
    assert all(0 <= start < end <= 7 * 1440 for start, end in found)


def test_without_a_zone_the_machines_clock_counts() -> None:
    local = datetime.now().astimezone()
    day = hours.DAYS[local.weekday()]
    assert hours.is_open(hours.utc_windows([day], now=local, zone=None), local)
