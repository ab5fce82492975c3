from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from services.billing.domain.periods import Period, nth_start, period_at


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("anchor", "starts"),
    [
        ("2026-01-31T12:00", ["2026-02-28T12:00", "2026-03-31T12:00", "2026-04-30T12:00"]),
        ("2028-01-30T00:00", ["2028-02-29T00:00", "2028-03-30T00:00", "2028-04-30T00:00"]),
        ("2024-02-29T06:30", ["2024-03-29T06:30", "2024-04-29T06:30", "2024-05-29T06:30"]),
        ("2026-12-15T00:00", ["2027-01-15T00:00", "2027-02-15T00:00", "2027-03-15T00:00"]),
    ],
)
def test_a_short_month_is_clamped_and_does_not_move_the_months_after_it(anchor: str, starts: list[str]) -> None:
    assert [nth_start(utc(anchor), months) for months in (1, 2, 3)] == [utc(start) for start in starts]


def test_a_leap_day_anchor_falls_on_the_28th_in_other_years() -> None:
    assert nth_start(utc("2024-02-29T00:00"), 12) == utc("2025-02-28T00:00")
    assert nth_start(utc("2024-02-29T00:00"), 48) == utc("2028-02-29T00:00")


def test_the_start_belongs_to_the_period_and_the_end_to_the_next() -> None:
    anchor, tick = utc("2026-01-31T12:00"), timedelta(microseconds=1)
    first = Period(anchor, utc("2026-02-28T12:00"))
    assert period_at(anchor, anchor) == first
    assert period_at(anchor, first.end - tick) == first
    assert period_at(anchor, first.end) == Period(first.end, utc("2026-03-31T12:00"))


def test_a_moment_before_the_anchor_is_in_the_first_period() -> None:
    anchor = utc("2026-01-31T12:00")
    assert period_at(anchor, anchor - timedelta(days=400)) == period_at(anchor, anchor)


def test_periods_are_utc_whatever_zone_the_moments_come_in() -> None:
    zone = timezone(timedelta(hours=-8))
    anchor = utc("2026-01-31T02:00")
    local = period_at(anchor.astimezone(zone), utc("2026-03-01T00:00").astimezone(zone))
    assert local == period_at(anchor, utc("2026-03-01T00:00"))
    assert local.start.tzinfo is UTC
