from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.errors import InvalidField
from services.metering.domain import limits
from services.metering.domain.errors import TooManyWindows
from services.metering.domain.windows import Window, WindowSize, cut, zone_from_name


def us(*moment: int) -> int:
    return unix_microseconds(datetime(*moment, tzinfo=UTC))  # type: ignore[arg-type, misc]  # year, month, day, ...


def local(zone: str, start: int, end: int, size: WindowSize) -> list[tuple[str, float]]:
    """Each window's local beginning and its length in hours."""
    return [
        (
            from_unix_microseconds(window.start_us or 0).astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M%z"),
            ((window.end_us or 0) - (window.start_us or 0)) / 3_600_000_000,
        )
        for window in cut(start, end, size, ZoneInfo(zone))
    ]


def test_the_day_on_which_vienna_springs_forward_has_23_hours() -> None:
    assert local("Europe/Vienna", us(2025, 3, 28, 23), us(2025, 3, 31, 22), WindowSize.DAY) == [
        ("03-29 00:00+0100", 24),
        ("03-30 00:00+0100", 23),
        ("03-31 00:00+0200", 24),
    ]


def test_the_day_on_which_vienna_falls_back_has_25_hours() -> None:
    assert local("Europe/Vienna", us(2025, 10, 25, 22), us(2025, 10, 27, 23), WindowSize.DAY) == [
        ("10-26 00:00+0200", 25),
        ("10-27 00:00+0100", 24),
    ]


def test_the_hour_that_new_york_lives_twice_is_two_windows() -> None:
    assert local("America/New_York", us(2025, 11, 2, 4), us(2025, 11, 2, 8), WindowSize.HOUR) == [
        ("11-02 00:00-0400", 1),
        ("11-02 01:00-0400", 1),
        ("11-02 01:00-0500", 1),
        ("11-02 02:00-0500", 1),
    ]


def test_the_hour_that_new_york_skips_has_no_window() -> None:
    assert local("America/New_York", us(2025, 3, 9, 6), us(2025, 3, 9, 8), WindowSize.HOUR) == [
        ("03-09 01:00-0500", 1),
        ("03-09 03:00-0400", 1),
    ]


def test_lord_howe_changes_its_clocks_by_half_an_hour() -> None:
    assert local("Australia/Lord_Howe", us(2025, 4, 5, 14), us(2025, 4, 5, 16, 30), WindowSize.HOUR) == [
        ("04-06 01:00+1100", 1),
        ("04-06 01:30+1030", 0.5),
        ("04-06 02:00+1030", 1),
    ]
    assert local("Australia/Lord_Howe", us(2025, 4, 5, 13), us(2025, 4, 6, 13, 30), WindowSize.DAY) == [
        ("04-06 00:00+1100", 24.5)
    ]


def test_days_in_kathmandu_begin_a_quarter_past_the_hour_of_utc() -> None:
    assert local("Asia/Kathmandu", us(2025, 6, 1), us(2025, 6, 2, 18, 15), WindowSize.DAY) == [
        ("06-01 05:45+0545", 18.25),
        ("06-02 00:00+0545", 24),
    ]


def test_where_clocks_jump_over_midnight_the_day_begins_at_the_jump() -> None:
    assert local("Africa/Cairo", us(2025, 4, 23, 22), us(2025, 4, 25, 21), WindowSize.DAY) == [
        ("04-24 00:00+0200", 24),
        ("04-25 01:00+0300", 23),
    ]
    assert local("America/Toronto", us(1919, 3, 30, 5), us(1919, 4, 1, 4), WindowSize.DAY) == [
        ("03-30 00:00-0500", 23.5),
        ("03-31 00:30-0400", 23.5),
    ]


def test_where_midnight_happens_twice_the_day_begins_the_first_time() -> None:
    assert local("America/St_Johns", us(2010, 11, 6, 2, 30), us(2010, 11, 8, 3, 30), WindowSize.DAY) == [
        ("11-06 00:00-0230", 24),
        ("11-07 00:00-0230", 25),
    ]


def test_a_date_that_a_zone_skips_has_no_window() -> None:
    assert local("Pacific/Apia", us(2011, 12, 29, 10), us(2011, 12, 31, 10), WindowSize.DAY) == [
        ("12-29 00:00-1000", 24),
        ("12-31 00:00+1400", 24),
    ]


def test_weeks_begin_on_monday_and_months_on_their_first() -> None:
    assert local("Europe/Vienna", us(2025, 3, 25), us(2025, 4, 1), WindowSize.WEEK) == [
        ("03-25 01:00+0100", 6 * 24 - 2),
        ("03-31 00:00+0200", 26),
    ]
    assert [start for start, _ in local("UTC", us(2024, 1, 31), us(2024, 4, 1), WindowSize.MONTH)] == [
        "01-31 00:00+0000",
        "02-01 00:00+0000",
        "03-01 00:00+0000",
    ]


@given(
    st.sampled_from(
        ["UTC", "Europe/Vienna", "Australia/Lord_Howe", "Africa/Cairo", "Pacific/Apia", "America/St_Johns"]
    ),
    st.sampled_from(WindowSize),
    st.integers(us(2009, 1, 1), us(2026, 1, 1)),
    st.integers(0, 40 * 86_400_000_000),
)
def test_windows_tile_their_interval(zone: str, size: WindowSize, start_us: int, length_us: int) -> None:
    windows = cut(start_us, start_us + length_us, size, ZoneInfo(zone))
    if not length_us:
        assert windows == ()
        return
    assert (windows[0].start_us, windows[-1].end_us) == (start_us, start_us + length_us)
    assert all(one.end_us == next_one.start_us for one, next_one in pairwise(windows))
    assert all((window.start_us or 0) < (window.end_us or 0) for window in windows)


def test_one_window_too_many_is_refused_with_the_maximum() -> None:
    hours = limits.QUERY_WINDOWS_MAX * 3_600_000_000
    assert len(cut(0, hours, WindowSize.HOUR, ZoneInfo("UTC"))) == limits.QUERY_WINDOWS_MAX
    with pytest.raises(TooManyWindows, match=str(limits.QUERY_WINDOWS_MAX)):
        cut(0, hours + 1, WindowSize.HOUR, ZoneInfo("UTC"))


@pytest.mark.parametrize("name", ["Europe/Vienna2", "../etc/passwd", "europe/vienna", "CEST", "+02:00", "localtime"])
def test_what_is_no_iana_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidField, match="IANA"):
        zone_from_name(name)


def test_windows_outlast_no_calendar() -> None:
    for start_us, end_us in ((us(1, 1, 1), us(2025, 1, 1)), (us(2025, 1, 1), us(9999, 12, 31))):
        with pytest.raises(InvalidField, match="years"):
            cut(start_us, end_us, WindowSize.MONTH, ZoneInfo("UTC"))


def test_an_edge_that_is_a_full_hour_makes_no_empty_window() -> None:
    assert cut(us(2025, 1, 1), us(2025, 1, 1, 1), WindowSize.HOUR, ZoneInfo("UTC")) == (
        Window(us(2025, 1, 1), us(2025, 1, 1, 1)),
    )
