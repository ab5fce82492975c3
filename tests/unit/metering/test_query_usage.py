from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kit.clock import SystemClock
from kit.errors import InvalidField, LimitExceeded
from services.metering.adapters.memory import MemoryLedger, MemoryMeterCatalog
from services.metering.adapters.memory_usage import MemoryUsageReader
from services.metering.application.ports import Interval, UsageAnswer
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_usage import RecordUsage
from services.metering.domain import limits
from services.metering.domain.acceptance import Status
from services.metering.domain.errors import TooManyRows, TooManyWindows, TotalTooLarge, UnknownMeter
from services.metering.domain.grouping import (
    Label,
    SubjectPart,
    dimension_from_text,
    dimension_to_text,
    filters_from_texts,
    group_by_from_texts,
)
from services.metering.domain.windows import WindowSize
from tests.usage_model import METERS, call, usage

NOON = datetime(2025, 6, 11, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ALWAYS = Interval(None, None)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def query_usage(ledger: MemoryLedger) -> QueryUsage:
    return QueryUsage(MemoryUsageReader(ledger), MemoryMeterCatalog(*METERS))


def totals(answer: UsageAnswer) -> dict[str, int]:
    return {row.meter: row.quantity for row in answer.rows}


async def test_without_meters_all_are_totalled_and_with_some_those_alone(
    ledger: MemoryLedger, query_usage: QueryUsage
) -> None:
    await ledger.append([usage("a", NOON, {"api_calls": 2, "peak": 3})], now=NOON)
    assert totals(await query_usage("acme", ALWAYS)) == {"api_calls": 2, "peak": 3}
    assert totals(await query_usage("acme", ALWAYS, meters=["peak", "peak"])) == {"peak": 3}
    with pytest.raises(UnknownMeter, match="unheard_of"):
        await query_usage("acme", ALWAYS, meters=["peak", "unheard_of"])


async def test_an_empty_interval_has_no_rows_and_still_says_as_of_when(
    ledger: MemoryLedger, query_usage: QueryUsage
) -> None:
    """B46."""
    await ledger.append([usage("a", NOON, {"api_calls": 2})], now=NOON)
    for window in (None, WindowSize.DAY):
        answer = await query_usage("acme", Interval(NOON, NOON), window=window)
        assert (list(answer.rows), answer.position.sequence) == ([], 1)


async def test_windows_of_a_local_day_follow_its_clocks(ledger: MemoryLedger, query_usage: QueryUsage) -> None:
    """B27."""
    start = datetime(2025, 3, 28, 23, tzinfo=UTC)
    await ledger.append(
        [usage(f"e{hour}", start + timedelta(hours=hour), {"api_calls": 1}) for hour in range(71)], now=NOON
    )
    interval = Interval(start, start + timedelta(hours=71))
    answer = await query_usage("acme", interval, window=WindowSize.DAY, time_zone="Europe/Vienna")
    assert [row.quantity for row in answer.rows] == [24, 23, 24]


@pytest.mark.parametrize(
    ("interval", "more", "problem"),
    [
        (Interval(NOON, NOON - timedelta(microseconds=1)), {}, "before start_time"),
        (Interval(None, NOON), {"window": WindowSize.DAY}, "needs start_time"),
        (Interval(NOON, None), {"window": WindowSize.DAY}, "needs start_time"),
        (Interval(NOON, NOON), {"time_zone": "UTC"}, "only with a window"),
        (Interval(NOON, NOON), {"time_zone": "Mars/Olympus", "window": WindowSize.DAY}, "IANA"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    query_usage: QueryUsage, interval: Interval, more: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidField, match=problem):
        await query_usage("acme", interval, **more)


async def test_too_many_rows_are_refused_with_the_maximum(
    ledger: MemoryLedger, query_usage: QueryUsage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUERY_ROWS_MAX", 3)
    await ledger.append(
        [usage(f"e{number}", NOON, {"api_calls": 1}, user=f"u{number}") for number in range(4)], now=NOON
    )
    with pytest.raises(TooManyRows, match="more than 3 rows"):
        await query_usage("acme", ALWAYS, meters=["api_calls"], group_by=[SubjectPart.USER])
    assert len((await query_usage("acme", ALWAYS, meters=["api_calls"])).rows) == 1


async def test_too_many_windows_are_refused_with_the_maximum(query_usage: QueryUsage) -> None:
    with pytest.raises(TooManyWindows, match=str(limits.QUERY_WINDOWS_MAX)):
        await query_usage("acme", Interval(NOON - 420 * DAY, NOON), window=WindowSize.HOUR)


async def test_a_time_weighted_total_that_no_answer_can_hold_is_refused_and_not_cut_off(
    ledger: MemoryLedger, query_usage: QueryUsage
) -> None:
    """B11. Values times milliseconds are bounded by no volume; every other total is."""
    await ledger.append([usage("e", NOON, {"storage": limits.QUANTITY_MAX})], now=NOON)
    second = timedelta(seconds=1)
    held = await query_usage("acme", Interval(NOON, NOON + second), meters=["storage"])
    assert totals(held) == {"storage": 1_000 * limits.QUANTITY_MAX}
    with pytest.raises(TotalTooLarge, match="storage"):
        await query_usage("acme", Interval(NOON, NOON + 2 * second), meters=["storage"])


@pytest.mark.parametrize("text", [*(part.value for part in SubjectPart), "label:env", "label:a:b"])
def test_a_dimension_is_named_as_it_was_asked_for(text: str) -> None:
    assert dimension_to_text(dimension_from_text(text, field="group_by")) == text


@pytest.mark.parametrize("text", ["", "User", "organization", "label", "label:", "label:a\0b", "label:" + "k" * 129])
def test_what_is_no_dimension_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="group_by"):
        group_by_from_texts([text])


def test_grouping_twice_by_one_dimension_is_refused() -> None:
    assert group_by_from_texts(["user", "label:env"]) == (SubjectPart.USER, Label("env"))
    with pytest.raises(InvalidField, match="twice"):
        group_by_from_texts(["user", "user"])
    with pytest.raises(LimitExceeded, match=str(limits.QUERY_GROUP_BY_MAX)):
        group_by_from_texts(["user", "team", "project", "agent", "task"])


def test_a_filter_without_values_is_refused_and_never_a_no_op() -> None:
    """B7."""
    with pytest.raises(InvalidField, match="empty"):
        filters_from_texts([("user", [])])


def test_two_filters_on_one_dimension_are_refused() -> None:
    """B7."""
    with pytest.raises(InvalidField, match="one dimension"):
        filters_from_texts([("user", ["a"]), ("user", ["b"])])


def test_filters_have_their_maxima() -> None:
    with pytest.raises(LimitExceeded, match=str(limits.FILTER_VALUES_MAX)):
        filters_from_texts([("user", [str(number) for number in range(limits.FILTER_VALUES_MAX + 1)])])
    with pytest.raises(LimitExceeded, match=str(limits.QUERY_FILTERS_MAX)):
        filters_from_texts([(f"label:{number}", ["a"]) for number in range(limits.QUERY_FILTERS_MAX + 1)])
    with pytest.raises(InvalidField, match="NUL"):
        filters_from_texts([("user", ["a\0"])])


async def test_a_measurement_that_no_meter_would_read_is_refused(ledger: MemoryLedger) -> None:
    record_usage = RecordUsage(ledger, MemoryMeterCatalog(*METERS), SystemClock())
    outcomes = await record_usage(
        [
            usage("a", NOON, {"users": 1}),
            usage("b", NOON, {"tokens": 1}),
            usage("c", NOON, {"peak": 1}, provider_call=call()),
        ]
    )
    assert [outcome.status for outcome in outcomes] == [Status.REJECTED, Status.REJECTED, Status.ACCEPTED]
    assert {outcome.refusal.reason for outcome in outcomes if outcome.refusal} == {"UNKNOWN_METER"}
