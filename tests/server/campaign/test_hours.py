from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.campaign import hours

NIGHTS = ((0, 420), (1140, 1860), (10020, 10080))
MONDAY = datetime(2026, 11, 16, tzinfo=UTC).timestamp()
HOUR = 3600.0

windows = st.lists(st.integers(0, 10080), min_size=2, max_size=8, unique=True).map(
    lambda edges: tuple(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
)
times = st.floats(1.6e9, 2.0e9)


def test_without_windows_a_site_is_always_open() -> None:
    assert hours.opens((), 5.0) == 5.0
    assert hours.due((), 5.0, 7.0) == 12.0


@pytest.mark.parametrize(
    ("hour", "opens_at"),
    [
        (3.0, 3.0),
        (7.0, 19.0),
        (12.0, 19.0),
        (19.0, 19.0),
        (7 * 24 - 2, 7 * 24 - 1),
        (7 * 24 - 0.5, 7 * 24 - 0.5),
    ],
)
def test_opens(hour: float, opens_at: float) -> None:
    assert hours.opens(NIGHTS, MONDAY + hour * HOUR) == pytest.approx(MONDAY + opens_at * HOUR)


def test_an_allowance_pauses_while_the_site_is_closed() -> None:
    assert hours.due(NIGHTS, MONDAY + 6 * HOUR, 2 * HOUR) == MONDAY + 20 * HOUR
    last_night_hour = MONDAY + (7 * 24 - 1) * HOUR
    assert hours.due(NIGHTS, last_night_hour, 3 * HOUR) == last_night_hour + 3 * HOUR  # into the next week


@given(windows, times)
def test_opens_is_open_and_never_before_now(of_week: tuple[tuple[int, int], ...], now: float) -> None:
    when = hours.opens(of_week, now)
    assert when >= now
    minute = (when - hours.EPOCH_S) % hours.WEEK_S / 60
    assert any(start - 1e-6 <= minute < end for start, end in of_week)


@given(windows, times, st.floats(0, 1e6), st.floats(0, 1e6))
def test_allowances_add_up(of_week: tuple[tuple[int, int], ...], now: float, one: float, two: float) -> None:
    both = hours.due(of_week, now, one + two)
    assert hours.due(of_week, hours.due(of_week, now, one), two) == pytest.approx(both, abs=1e-3)
    assert both >= now + one + two - 1e-3
