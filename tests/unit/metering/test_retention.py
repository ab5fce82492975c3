"""Which weeks are due, who has passed them, and of what only events can tell."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from kit.errors import OutOfRetention
from kit.feed import START, Position
from services.metering.domain.grouping import Filter, Label, SubjectPart
from services.metering.domain.meters import Aggregation
from services.metering.domain.retention import (
    Confirmation,
    NotPassed,
    Share,
    due_weeks,
    not_passed,
    raw_windows,
    refuse_before,
)
from services.metering.domain.rollups import BUCKET_US
from services.metering.domain.usage_query import UsageQuery
from services.metering.domain.windows import Window

MONDAY = date(2025, 6, 9)
LAST = datetime(2025, 6, 12, tzinfo=UTC)
SHARE = Share("acme", 10, 20, LAST)


def test_a_week_is_due_when_its_end_is_as_old_as_the_retention() -> None:
    end = datetime(2025, 6, 16, tzinfo=UTC)
    retention = timedelta(days=90)
    weeks = [MONDAY + timedelta(days=7), MONDAY]
    assert due_weeks(weeks, now=end + retention - timedelta(microseconds=1), retention=retention) == []
    assert due_weeks(weeks, now=end + retention, retention=retention) == [MONDAY]
    assert due_weeks(weeks, now=end + 2 * retention, retention=retention) == sorted(weeks)


@pytest.mark.parametrize(
    ("sequence", "needed_from", "passed"),
    [
        (20, None, True),
        (19, None, False),
        (20, LAST, False),
        (99, LAST, False),
        (20, LAST + timedelta(microseconds=1), True),
        (19, LAST + timedelta(days=1), False),
    ],
)
def test_a_share_is_passed_by_position_and_by_time(
    sequence: int, needed_from: datetime | None, *, passed: bool
) -> None:
    said = {("billing", "acme"): Confirmation("acme", Position(sequence, ""), needed_from)}
    waiting = list(not_passed([SHARE], said, ["billing"]))
    assert waiting == ([] if passed else [NotPassed("billing", "acme")])


def test_who_said_nothing_has_not_passed() -> None:
    said = {("billing", "acme"): Confirmation("acme", Position(20, ""), None)}
    other = Share("globex", 0, 1, LAST)
    assert list(not_passed([SHARE, other], said, ["analytics", "billing"])) == [
        NotPassed("analytics", "acme"),
        NotPassed("analytics", "globex"),
        NotPassed("billing", "globex"),
    ]
    assert list(not_passed([], said, ["analytics"])) == []


def test_what_stands_before_the_horizon_is_refused_and_the_horizon_itself_is_not() -> None:
    refuse_before(START, 0)
    refuse_before(Position(5, "x"), 5)
    for sequence in (0, 4):
        with pytest.raises(OutOfRetention, match="up to sequence 5"):
            refuse_before(Position(5, "x"), sequence)


def query(*edges_us: int | None, by: SubjectPart | Label | None = None) -> UsageQuery:
    windows = tuple(Window(start, end) for start, end in pairwise(edges_us))
    return UsageQuery(meters=(), windows=windows, group_by=() if by is None else (by,))


@pytest.mark.parametrize("aggregation", [Aggregation.SUM, Aggregation.COUNT])
def test_sums_need_events_only_at_edges_within_a_bucket(aggregation: Aggregation) -> None:
    quarter = BUCKET_US
    for asked, needed in (
        (query(None, None), ()),
        (query(0, 4 * quarter), ()),
        (query(0, 2 * quarter, 4 * quarter, by=SubjectPart.USER), ()),
        (query(1, 4 * quarter), (Window(1, quarter),)),
        (query(0, 4 * quarter + 1), (Window(4 * quarter, 4 * quarter + 1),)),
        (query(None, quarter + 5), (Window(quarter, quarter + 5),)),
        (query(1, quarter - 1), (Window(1, quarter - 1),)),
        (query(0, 7, 4 * quarter), (Window(0, 4 * quarter),)),
        (query(0, 4 * quarter, by=SubjectPart.TASK), (Window(0, 4 * quarter),)),
        (query(None, None, by=Label("env")), (Window(None, None),)),
    ):
        assert raw_windows(asked, aggregation) == needed


def test_a_filter_needs_events_as_a_group_does() -> None:
    filtered = UsageQuery(
        meters=(), windows=(Window(0, BUCKET_US),), filters=(Filter(SubjectPart.SESSION, frozenset(["s"])),)
    )
    assert raw_windows(filtered, Aggregation.SUM) == (Window(0, BUCKET_US),)


def test_other_aggregations_need_all_events_and_weighted_sums_those_before_too() -> None:
    asked = query(BUCKET_US, 2 * BUCKET_US)
    for aggregation in (Aggregation.MAX, Aggregation.LATEST, Aggregation.UNIQUE_COUNT):
        assert raw_windows(asked, aggregation) == (Window(BUCKET_US, 2 * BUCKET_US),)
    assert raw_windows(asked, Aggregation.TIME_WEIGHTED_SUM) == (Window(None, 2 * BUCKET_US),)
