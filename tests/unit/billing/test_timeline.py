"""Which terms are in force when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from services.billing.domain.periods import Period
from services.billing.domain.timeline import Phase, PlanRef, Segment, Timeline

STARTER, PRO = PlanRef("starter", 1), PlanRef("pro", 3)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def timeline(*phases: Phase, start: str = "2026-01-31", anchor: str | None = None, end: str | None = None) -> Timeline:
    return Timeline(
        subscription_id="sub",
        currency_code="USD",
        start=utc(start),
        anchor=utc(anchor or start),
        end=None if end is None else utc(end),
        phases=phases or (Phase(start=utc(start), plan=STARTER),),
        opening=utc(start) + timedelta(minutes=30),
    )


def period(start: str, end: str) -> Period:
    return Period(utc(start), utc(end))


def test_periods_are_months_from_the_anchor() -> None:
    expected = (period("2026-01-31", "2026-02-28"), period("2026-02-28", "2026-03-31"))
    assert timeline().periods(utc("2026-03-31")) == expected
    assert timeline().period_at(utc("2026-03-30T23:59")) == expected[1]


def test_a_trial_is_a_period_of_its_own() -> None:
    with_trial = timeline(start="2026-01-17", anchor="2026-01-31")
    assert with_trial.periods(utc("2026-02-28")) == (
        period("2026-01-17", "2026-01-31"),
        period("2026-01-31", "2026-02-28"),
    )
    assert with_trial.period_at(utc("2026-01-01")) == period("2026-01-17", "2026-01-31")


def test_no_period_begins_at_or_after_the_end() -> None:
    assert timeline(end="2026-02-28").periods(utc("2030-01-01")) == (period("2026-01-31", "2026-02-28"),)
    assert len(timeline(end="2026-02-28T00:01").periods(utc("2030-01-01"))) == 2


def test_a_phase_ends_where_the_next_one_begins() -> None:
    first, second = Phase(start=utc("2026-01-31"), plan=STARTER), Phase(start=utc("2026-02-10"), plan=PRO)
    changed = timeline(first, second)
    month = period("2026-01-31", "2026-02-28")
    assert changed.segments(month) == (
        Segment(period("2026-01-31", "2026-02-10"), first, month),
        Segment(period("2026-02-10", "2026-02-28"), second, month),
    )
    assert changed.phase_at(utc("2026-02-09T23:59")) == first
    assert changed.phase_at(utc("2026-02-10")) == second


def test_a_change_at_the_boundary_instant_belongs_to_the_period_that_begins() -> None:
    first, second = Phase(start=utc("2026-01-31"), plan=STARTER), Phase(start=utc("2026-02-28"), plan=PRO)
    changed = timeline(first, second)
    assert [each.phase for each in changed.segments(period("2026-01-31", "2026-02-28"))] == [first]
    assert [each.phase for each in changed.segments(period("2026-02-28", "2026-03-31"))] == [second]


def test_of_changes_at_one_instant_the_last_one_counts() -> None:
    first, middle, last = (Phase(start=utc("2026-01-31"), plan=PlanRef("starter", n)) for n in (1, 2, 3))
    assert [each.phase for each in timeline(first, middle, last).segments(period("2026-01-31", "2026-02-28"))] == [last]


def test_segments_end_with_the_subscription() -> None:
    ended = timeline(end="2026-02-10")
    assert [each.interval for each in ended.segments(period("2026-01-31", "2026-02-28"))] == [
        period("2026-01-31", "2026-02-10")
    ]
    assert ended.segments(period("2026-02-28", "2026-03-31")) == ()


@pytest.mark.parametrize(
    ("months", "through", "starts"),
    [
        (1, "2024-04-29", ["2024-02-29", "2024-03-29", "2024-04-29"]),
        (12, "2026-02-28", ["2024-02-29", "2025-02-28", "2026-02-28"]),
        (12, "2028-02-28T23:59", ["2024-02-29", "2025-02-28", "2026-02-28", "2027-02-28"]),
    ],
)
def test_intervals_are_counted_from_the_anchor(months: int, through: str, starts: list[str]) -> None:
    found = timeline(start="2024-02-20", anchor="2024-02-29").intervals(months, through=utc(through))
    assert [each.start for each in found] == [utc(start) for start in starts]
    assert all(earlier.end == later.start for earlier, later in pairwise(found))
