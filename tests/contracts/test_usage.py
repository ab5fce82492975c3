"""The promises of UsageReader, on memory, and on Postgres without rollups, with some and with all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from kit.clock import unix_microseconds
from kit.feed import START, Follower
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.memory_usage import MemoryUsageReader
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads, PostgresLedgerWriter
from services.metering.adapters.postgres_rollups import LedgerSpans, PostgresRollups
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.application.ports import LedgerWriter, UsageReader
from services.metering.domain import limits
from services.metering.domain.acceptance import Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.grouping import Dimension, Filter, Label, SubjectPart
from services.metering.domain.meters import Aggregation, Meter, ValueSource
from services.metering.domain.usage_query import UsageQuery, UsageRow
from services.metering.domain.windows import Window, WindowSize, cut, zone_from_name
from tests.usage_model import METERS, call, meter, reversal, usage

NOON = datetime(2025, 6, 11, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
BY_NAME = {each.name: each for each in METERS}


@dataclass
class House:
    """A ledger with its totals, and an organization that no other test uses."""

    writer: LedgerWriter
    reader: UsageReader
    roll_up: Callable[[], Any]
    rolls_up_until: int | None
    organization_id: str = field(default_factory=lambda: f"org-{uuid4().hex}")
    batches: count[int] = field(default_factory=count)

    async def record(self, *events: UsageEvent) -> None:
        outcomes = await self.writer.append(events, now=datetime.now(UTC))
        assert [outcome.status for outcome in outcomes] == [Status.ACCEPTED] * len(events)
        # With some rollups: the first batch alone, so that every total is made of both.
        if self.rolls_up_until is None or next(self.batches) < self.rolls_up_until:
            await self.roll_up()

    def usage(self, name: str, moment: datetime, quantities: dict[str, int] | None = None, **more: Any) -> UsageEvent:
        return usage(name, moment, quantities, organization_id=self.organization_id, **more)

    def reversal(self, name: str, target: str) -> UsageEvent:
        return reversal(name, target, organization_id=self.organization_id)

    async def rows(
        self,
        *meters: Meter,
        start: datetime | None = None,
        end: datetime | None = None,
        windows: Sequence[Window] | None = None,
        group_by: Sequence[Dimension] = (),
        filters: Sequence[Filter] = (),
        as_of: int | None = None,
    ) -> list[UsageRow]:
        edges = (None if edge is None else unix_microseconds(edge) for edge in (start, end))
        query = UsageQuery(
            meters=meters,
            windows=(Window(*edges),) if windows is None else tuple(windows),
            group_by=tuple(group_by),
            filters=tuple(filters),
        )
        return list((await self.reader.usage(self.organization_id, query, as_of_sequence=as_of)).rows)

    async def total(self, name: str, **asked: Any) -> int | None:
        """The one total of a meter; None: there is no row."""
        rows = await self.rows(BY_NAME[name], **asked)
        assert len(rows) <= 1
        return rows[0].quantity if rows else None


@pytest.fixture(params=["memory", "postgres", "postgres, first batch rolled up", "postgres, all rolled up"])
async def house(request: pytest.FixtureRequest, migrated: Callable[[str], dict[str, str]]) -> AsyncIterator[House]:
    if request.param == "memory":
        memory = MemoryLedger()

        async def nothing() -> None:
            return None

        yield House(memory, MemoryUsageReader(memory), nothing, 0)
        return
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    writer, heads = databases["writer"], PostgresLedgerHeads(databases["fleet"])
    rollups = Follower("tests", LedgerSpans(writer, HeadWatch(heads.heads)), PostgresRollups(writer))
    until = {"postgres": 0, "postgres, first batch rolled up": 1}.get(request.param)
    organization_id = f"org-{uuid4().hex}"
    yield House(
        PostgresLedgerWriter(writer),
        PostgresUsageReader(databases["tenant"]),
        lambda: rollups.catch_up(organization_id),
        until,
        organization_id,
    )
    for database in databases.values():
        await database.close()


async def test_a_ledger_without_events_has_no_rows(house: House) -> None:
    answer = await house.reader.usage(
        house.organization_id, UsageQuery(meters=METERS, windows=(Window(None, None),)), as_of_sequence=None
    )
    assert (answer.rows, answer.position) == ((), START)


async def test_sums_and_counts_add_up_what_is_inside_to_the_microsecond(house: House) -> None:
    await house.record(
        house.usage("before", NOON - MICROSECOND, {"api_calls": 1, "batches": 5}, nanoseconds=999),
        house.usage("at", NOON, {"api_calls": 10, "batches": 5}),
    )
    await house.record(
        house.usage("last", NOON + HOUR - MICROSECOND, {"api_calls": 100, "batches": 5}, nanoseconds=999),
        house.usage("end", NOON + HOUR, {"api_calls": 1_000}),
    )
    inside = {"start": NOON, "end": NOON + HOUR}
    assert await house.total("api_calls", **inside) == 110
    assert await house.total("batches", **inside) == 2
    assert await house.total("api_calls", start=NOON + MICROSECOND) == 1_100
    assert await house.total("api_calls", end=NOON) == 1
    assert await house.total("api_calls") == 1_111


async def test_an_empty_interval_has_no_rows(house: House) -> None:
    """B46: not the whole meter."""
    await house.record(house.usage("a", NOON, {each.name: 1 for each in METERS}, user="u", provider_call=call()))
    assert await house.rows(*METERS, start=NOON, end=NOON) == []
    assert await house.rows(*METERS, windows=()) == []


async def test_totals_are_never_repeated(house: House) -> None:
    """B46: one row per meter, window and group, asked once or twice, rolled up or not."""
    await house.record(house.usage("a", NOON, {"api_calls": 3}))
    await house.record(house.usage("b", NOON + SECOND, {"api_calls": 4}))
    for _ in range(2):
        assert [row.quantity for row in await house.rows(*METERS, group_by=[SubjectPart.USER])] == [7]


async def test_an_event_is_on_the_side_of_an_edge_that_its_nanoseconds_say(house: House) -> None:
    """B6: 0.1 s is no binary fraction; integers do not move it."""
    moment = NOON + timedelta(microseconds=100_000)
    await house.record(house.usage("a", moment - MICROSECOND, {"api_calls": 1}, nanoseconds=999))
    await house.record(house.usage("b", moment, {"api_calls": 10}))
    assert await house.total("api_calls", end=moment) == 1
    assert await house.total("api_calls", start=moment) == 10


async def test_filters_count_each_event_in_one_group(house: House) -> None:
    """B7: groups neither overlap nor leave anything out."""
    await house.record(
        house.usage("a", NOON, {"api_calls": 1}, project="p", user="u"),
        house.usage("b", NOON, {"api_calls": 10}, project="p"),
        house.usage("c", NOON, {"api_calls": 100}, user="u"),
    )
    await house.record(house.usage("d", NOON, {"api_calls": 1_000}))
    by_project = await house.rows(BY_NAME["api_calls"], group_by=[SubjectPart.PROJECT])
    assert [(row.group, row.quantity) for row in by_project] == [(("",), 1_100), (("p",), 11)]
    both = await house.rows(BY_NAME["api_calls"], group_by=[SubjectPart.USER, SubjectPart.PROJECT])
    assert [(row.group, row.quantity) for row in both] == [
        (("", ""), 1_000),
        (("", "p"), 10),
        (("u", ""), 100),
        (("u", "p"), 1),
    ]
    for values, expected in ((["p"], 11), ([""], 1_100), (["p", ""], 1_111), (["q"], None)):
        passing = Filter(SubjectPart.PROJECT, frozenset(values))
        assert await house.total("api_calls", filters=[passing]) == expected
    everything = [Filter(SubjectPart.PROJECT, frozenset(["p"])), Filter(SubjectPart.USER, frozenset([""]))]
    assert await house.total("api_calls", filters=everything) == 10


@pytest.mark.parametrize(
    ("dimension", "named"),
    [(part, {part.value: "x"}) for part in SubjectPart] + [(Label("env"), {"labels": {"env": "x"}})],
)
async def test_usage_is_grouped_and_filtered_by_every_dimension(
    house: House, dimension: Dimension, named: dict[str, Any]
) -> None:
    await house.record(house.usage("a", NOON, {"api_calls": 1}, provider_call=call(output=5), **named))
    await house.record(house.usage("b", NOON, {"api_calls": 10}, provider_call=call(output=50)))
    rows = await house.rows(BY_NAME["api_calls"], BY_NAME["tokens"], group_by=[dimension])
    assert [(row.meter, row.group, row.quantity) for row in rows] == [
        ("api_calls", ("",), 10),
        ("api_calls", ("x",), 1),
        ("tokens", ("",), 50),
        ("tokens", ("x",), 5),
    ]
    assert await house.total("tokens", filters=[Filter(dimension, frozenset(["x"]))]) == 5


async def test_values_of_provider_calls_are_counted_where_they_are_known(house: House) -> None:
    await house.record(
        house.usage("a", NOON, provider_call=call(output=7, latency_ns=1_999_999)),
        house.usage("b", NOON, provider_call=call(output=0, latency_ns=None)),
    )
    await house.record(house.usage("c", NOON, provider_call=call(output=5, latency_ns=3_000_000)))
    await house.record(house.usage("no call", NOON, {"api_calls": 1}))
    totals = {name: await house.total(name) for name in ("calls", "tokens", "latency", "calls_timed", "slowest")}
    assert totals == {"calls": 3, "tokens": 12, "latency": 4, "calls_timed": 2, "slowest": 3}
    classes = [source for source in ValueSource if source.value.startswith("TOKENS_")]
    rows = await house.rows(*(meter(source.value.lower(), source=source) for source in classes))
    assert {row.meter: row.quantity for row in rows} == {
        "tokens_cache_read": 6,
        "tokens_cache_write": 9,
        "tokens_input_uncached": 3,
        "tokens_output": 12,
        "tokens_reasoning": 12,
    }


async def test_the_latest_value_is_that_of_the_highest_time_then_sequence(house: House) -> None:
    await house.record(
        house.usage("late", NOON + SECOND, {"level": 4}),
        house.usage("more nanoseconds", NOON + SECOND, {"level": 5}, nanoseconds=1),
        house.usage("fewer nanoseconds", NOON + SECOND, {"level": 6}),
    )
    assert await house.total("level") == 5
    await house.record(house.usage("the same moment", NOON + SECOND, {"level": 7}, nanoseconds=1))
    assert await house.total("level") == 7
    await house.record(house.usage("older, recorded last", NOON, {"level": 8}))
    assert await house.total("level") == 7
    assert await house.total("level", end=NOON + SECOND) == 8


async def test_a_reversed_event_counts_for_nothing_from_its_reversal_on(house: House) -> None:
    await house.record(
        house.usage(
            "a", NOON, dict.fromkeys(BY_NAME, 3), user="u1", provider_call=call(output=3, latency_ns=3_000_000)
        ),
        house.usage(
            "b", NOON, dict.fromkeys(BY_NAME, 5), user="u2", provider_call=call(output=5, latency_ns=5_500_000)
        ),
    )
    names = ("api_calls", "batches", "peak", "level", "calls", "calls_timed", "latency", "slowest", "tokens", "users")
    both = dict(zip(names, (8, 2, 5, 5, 2, 2, 8, 5, 8, 2), strict=True))
    one = dict(zip(names, (3, 1, 3, 3, 1, 1, 3, 3, 3, 1), strict=True))
    assert {name: await house.total(name) for name in names} == both
    await house.record(house.reversal("undo", "b"))
    assert {name: await house.total(name) for name in names} == one
    assert {name: await house.total(name, as_of=2) for name in names} == both
    assert await house.rows(*METERS, filters=[Filter(SubjectPart.USER, frozenset(["u2"]))]) == []


async def test_different_values_are_counted_once_each_and_missing_ones_not_at_all(house: House) -> None:
    await house.record(
        house.usage("a", NOON, user="u1", labels={"env": "x"}),
        house.usage("b", NOON, user="u1"),
        house.usage("c", NOON, user="u2", labels={"env": "x"}),
        house.usage("d", NOON),
    )
    assert await house.total("users") == 2
    assert await house.total("environments") == 1
    assert await house.total("users", filters=[Filter(SubjectPart.USER, frozenset([""]))]) is None


async def test_a_held_value_weighs_as_long_as_it_holds(house: House) -> None:
    await house.record(
        house.usage("two", NOON, {"storage": 2}),
        house.usage("five", NOON + 10 * SECOND, {"storage": 5}),
        house.usage("none", NOON + 30 * SECOND, {"storage": 0}),
    )
    assert await house.total("storage", start=NOON, end=NOON + HOUR) == 2 * 10_000 + 5 * 20_000
    assert await house.total("storage", start=NOON + 5 * SECOND, end=NOON + 20 * SECOND) == 2 * 5_000 + 5 * 10_000
    assert await house.total("storage", start=NOON + HOUR, end=NOON + 2 * HOUR) is None


async def test_what_held_when_an_interval_began_is_carried_in(house: House) -> None:
    await house.record(house.usage("long ago", NOON - 400 * 24 * HOUR, {"storage": 3}))
    assert await house.total("storage", start=NOON, end=NOON + SECOND) == 3_000


async def test_without_an_end_the_last_value_weighs_nothing(house: House) -> None:
    await house.record(house.usage("a", NOON, {"storage": 3}), house.usage("b", NOON + SECOND, {"storage": 4}))
    assert await house.total("storage") == 3_000
    assert await house.total("storage", start=NOON + SECOND) is None


async def test_series_of_different_subjects_or_labels_hold_beside_one_another(house: House) -> None:
    await house.record(house.usage("a", NOON, {"storage": 1}, project="p"))
    await house.record(
        house.usage("b", NOON, {"storage": 10}),
        house.usage("c", NOON, {"storage": 100}, labels={"env": "x"}),
        house.usage("d", NOON, {"storage": 1_000}, task="t"),
    )
    assert await house.total("storage", start=NOON, end=NOON + SECOND) == 1_111_000
    rows = await house.rows(BY_NAME["storage"], start=NOON, end=NOON + SECOND, group_by=[SubjectPart.PROJECT])
    assert [(row.group, row.quantity) for row in rows] == [(("",), 1_110_000), (("p",), 1_000)]


async def test_of_values_set_at_one_moment_the_later_one_holds(house: House) -> None:
    await house.record(
        house.usage("nanoseconds", NOON, {"storage": 3}, nanoseconds=2),
        house.usage("fewer", NOON, {"storage": 4}, nanoseconds=1),
    )
    assert await house.total("storage", start=NOON, end=NOON + SECOND) == 3_000


async def test_a_reversed_value_never_held(house: House) -> None:
    await house.record(house.usage("a", NOON, {"storage": 1}), house.usage("b", NOON + SECOND, {"storage": 9}))
    await house.record(house.reversal("undo", "b"))
    assert await house.total("storage", start=NOON, end=NOON + 2 * SECOND) == 2_000
    assert await house.total("storage", start=NOON, end=NOON + 2 * SECOND, as_of=2) == 10_000


async def test_weights_are_rounded_down_once_per_total(house: House) -> None:
    for number in range(3):
        moment = NOON + timedelta(microseconds=number * 333)
        await house.record(house.usage(f"e{number}", moment, {"storage": 1}, agent=f"a{number}"))
    end = NOON + timedelta(microseconds=999)
    assert await house.total("storage", start=NOON, end=end) == (999 + 666 + 333) // 1_000


async def test_a_total_as_of_a_sequence_never_changes(house: House) -> None:
    await house.record(house.usage("a", NOON, {"api_calls": 1}, user="u"))
    await house.record(house.usage("b", NOON, {"api_calls": 10}, user="u"))
    await house.record(house.usage("late", NOON - 30 * 24 * HOUR, {"api_calls": 100}, user="u"))
    for group_by in ([], [SubjectPart.USER], [SubjectPart.SESSION]):
        for as_of, expected in ((1, 1), (2, 11), (3, 111), (99, 111)):
            rows = await house.rows(BY_NAME["api_calls"], as_of=as_of, group_by=group_by)
            assert [row.quantity for row in rows] == [expected]


async def test_late_events_reach_the_totals_of_their_own_time(house: House) -> None:
    await house.record(house.usage("on time", NOON, {"api_calls": 1}))
    await house.record(house.usage("late", NOON - 24 * HOUR, {"api_calls": 10}))
    assert await house.total("api_calls", end=NOON - HOUR) == 10
    assert await house.total("api_calls", start=NOON - HOUR) == 1


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Vienna", datetime(2025, 3, 29, 23, tzinfo=UTC), 23),
        ("Europe/Vienna", datetime(2025, 10, 25, 22, tzinfo=UTC), 25),
        ("Australia/Lord_Howe", datetime(2025, 4, 5, 13, tzinfo=UTC), 24.5),
        ("Africa/Cairo", datetime(2025, 4, 24, 22, tzinfo=UTC), 23),
        ("Asia/Kathmandu", datetime(2025, 6, 10, 18, 15, tzinfo=UTC), 24),
    ],
)
async def test_every_quarter_of_a_local_day_is_in_that_day_alone(
    house: House, zone: str, day: datetime, hours: float
) -> None:
    """The day's windows hold what was used from its first microsecond to its last, whatever the clocks did."""
    length = timedelta(hours=hours)
    await house.record(
        house.usage("day before", day - MICROSECOND, {"api_calls": 1}),
        house.usage("first", day, {"api_calls": 10}),
    )
    await house.record(
        house.usage("last", day + length - MICROSECOND, {"api_calls": 100}),
        house.usage("day after", day + length, {"api_calls": 1_000}),
    )
    start_us, end_us = unix_microseconds(day - HOUR), unix_microseconds(day + length + HOUR)
    windows = cut(start_us, end_us, WindowSize.DAY, zone_from_name(zone))
    rows = await house.rows(BY_NAME["api_calls"], windows=windows)
    assert [(row.window, row.quantity) for row in rows] == list(zip(windows, (1, 110, 1_000), strict=True))
    assert windows[1] == Window(unix_microseconds(day), unix_microseconds(day + length))


async def test_sums_beyond_what_a_quantity_may_be_are_exact(house: House) -> None:
    largest = limits.QUANTITY_MAX
    await house.record(
        *(house.usage(f"e{number}", NOON, {"api_calls": largest, "storage": largest}) for number in range(500))
    )
    assert await house.total("api_calls") == 500 * largest
    assert await house.total("storage", start=NOON, end=NOON + HOUR) == largest * 3_600_000


async def test_an_answer_beyond_the_maximum_says_that_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUERY_ROWS_MAX", 2)
    everything = {each.name: 1 for each in METERS}
    await house.record(*(house.usage(f"e{number}", NOON, everything, user=f"u{number}") for number in range(4)))
    for each in ("api_calls", "peak", "level", "users", "storage"):
        rows = await house.rows(BY_NAME[each], end=NOON + HOUR, group_by=[SubjectPart.USER])
        assert len(rows) > limits.QUERY_ROWS_MAX
        assert len(rows) <= limits.QUERY_ROWS_MAX + 1


async def test_two_meters_may_read_one_value_in_two_ways(house: House) -> None:
    await house.record(house.usage("a", NOON, provider_call=call(output=3)))
    await house.record(house.usage("b", NOON, provider_call=call(output=4)))
    tokens = ValueSource.TOKENS_OUTPUT
    rows = await house.rows(
        *(meter(each.value.lower(), each, tokens) for each in Aggregation if each is not Aggregation.UNIQUE_COUNT),
        end=NOON + SECOND,
    )
    assert {row.meter: row.quantity for row in rows} == {
        "sum": 7,
        "count": 2,
        "max": 4,
        "latest": 4,
        "time_weighted_sum": 4_000,
    }
