from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from kit.errors import InvalidField, LimitExceeded
from services.analytics.domain.days import Interval, interval_of_days
from tests.unit.analytics.samples import NOON

BERLIN = ZoneInfo("Europe/Berlin")


def of(start: str, end: str, zone: str = "Europe/Berlin", now: datetime = NOON) -> Interval:
    return interval_of_days(start, end, zone=ZoneInfo(zone), now=now)


def length(day: str, zone: str) -> timedelta:
    interval = of(day, day, zone)
    return interval.end - interval.start


def test_days_are_inclusive_and_begin_at_the_zones_midnight() -> None:
    assert of("2026-01-01", "2026-01-31") == Interval(
        datetime(2025, 12, 31, 23, tzinfo=UTC), datetime(2026, 1, 31, 23, tzinfo=UTC)
    )
    assert of("2026-01-01", "2026-01-01", "UTC").start == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Europe/Berlin", "2026-03-30", 24),
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("America/Havana", "2026-03-08", 23),  # midnight does not happen
        ("America/Havana", "2026-11-01", 25),  # midnight happens twice
        ("Pacific/Apia", "2011-12-30", 0),  # the day does not happen
    ],
)
def test_a_day_has_the_hours_that_its_clocks_give_it(zone: str, day: str, hours: int) -> None:
    assert length(day, zone) == timedelta(hours=hours)


def test_a_half_hour_change_gives_a_half_hour_day() -> None:
    assert length("2026-04-05", "Australia/Lord_Howe") == timedelta(hours=24, minutes=30)


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"]
)
def test_the_days_of_years_tile_without_gap_or_overlap(zone: str) -> None:
    first = datetime(2010, 1, 1, tzinfo=UTC).date()
    days = [(first + timedelta(days=number)).isoformat() for number in range(1_000)]
    intervals = [of(day, day, zone) for day in days]
    assert all(before.end == after.start for before, after in pairwise(intervals))
    assert of(days[0], days[-1], zone) == Interval(intervals[0].start, intervals[-1].end)


def test_an_empty_end_is_today_in_the_zone_and_an_empty_start_29_days_before_the_end() -> None:
    late = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
    assert of("", "", "UTC", late) == of("2026-01-02", "2026-01-31", "UTC")
    assert of("", "", now=late) == of("2026-01-03", "2026-02-01")
    assert of("", "2026-03-01") == of("2026-01-31", "2026-03-01")


def test_an_end_before_the_start_is_refused_by_name() -> None:
    with pytest.raises(InvalidField, match="end_date"):
        of("2026-01-02", "2026-01-01")


@pytest.mark.parametrize(
    "text",
    [
        "2026-1-01",
        "20260101",
        "2026-W01-1",
        "2026-02-29",
        "2026-13-01",
        "01.01.2026",
        "٢٠٢٦-01-01",
        "2026-01-01\n",
        "x",
    ],
)
@pytest.mark.parametrize("field", ["start_date", "end_date"])
def test_a_malformed_date_is_refused_by_name(field: str, text: str) -> None:
    dates = {"start_date": "2026-01-01", "end_date": "2026-01-01"} | {field: text}
    with pytest.raises(InvalidField, match=field):
        interval_of_days(**dates, zone=BERLIN, now=NOON)


def test_three_years_are_answered_and_a_day_more_is_refused() -> None:
    of("2024-01-01", "2026-12-31")
    with pytest.raises(LimitExceeded, match="1097 is above the maximum of 1096"):
        of("2024-01-01", "2027-01-01")


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        ("0001-01-01", "0001-01-02", "start_date"),
        ("9999-12-01", "9999-12-31", "end_date"),
        ("", "0001-01-05", "end_date"),
    ],
)
def test_days_at_the_edge_of_the_calendar_are_refused_by_name(start: str, end: str, field: str) -> None:
    with pytest.raises(InvalidField, match=field):
        of(start, end)
