"""Totals of usage are what a plain model says, from rollups at any position and from none; and rollups come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.feed import START, Page, Position
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.memory_usage import MemoryUsageReader
from services.metering.adapters.postgres_ledger import PostgresLedgerReader, PostgresLedgerWriter
from services.metering.adapters.postgres_rollups import PostgresRollups, Span
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.application.ports import Interval, LedgerReader, LedgerWriter, UsageReader
from services.metering.domain.acceptance import Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.grouping import Dimension, Filter, Label, SubjectPart
from services.metering.domain.members import LevelMeters
from services.metering.domain.usage_query import UsageQuery
from services.metering.domain.windows import Window, WindowSize, cut
from tests.integration.rollup_tables import rollup_rows
from tests.usage_model import METERS, call, keyed, meter, model_rows, reversal, usage

# Instants at which clocks change somewhere: Vienna twice, Lord Howe by half an hour, Cairo at midnight.
CHANGES = st.sampled_from(
    [
        datetime(2025, 3, 30, 1, tzinfo=UTC),
        datetime(2025, 10, 26, 1, tzinfo=UTC),
        datetime(2025, 4, 5, 15, tzinfo=UTC),
        datetime(2025, 4, 24, 22, tzinfo=UTC),
    ]
)
ZONES = st.sampled_from(
    ["UTC", "Europe/Vienna", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu", "America/St_Johns"]
)
OFFSETS = st.builds(
    lambda quarters, minutes, microseconds: timedelta(minutes=15 * quarters + minutes, microseconds=microseconds),
    # Mostly near one another: what goes wrong does so within a bucket, at an edge, or between equals.
    st.integers(-2, 2) | st.integers(-8, 8) | st.integers(-200, 200),
    st.sampled_from([0, 0, 0, 7]),
    st.sampled_from([0, 0, -1, 1]),
)
NAMES = st.sampled_from(["", "a", "b"])
MOSTLY_NONE = st.sampled_from(["", "", "", "a", "b"])
DIMENSIONS: st.SearchStrategy[Dimension] = st.sampled_from(
    [
        SubjectPart.PROJECT,
        SubjectPart.USER,
        SubjectPart.USER,
        SubjectPart.AGENT,
        SubjectPart.SESSION,
        Label("env"),
        Label("unheard_of"),
    ]
)
QUANTITIES = st.sampled_from([0, 1, 7, 1_000, 2**53 - 1])
MEASUREMENTS = ["api_calls", "batches", "peak", "level", "storage"]
LEVELS = tuple(part for part in SubjectPart if part is not SubjectPart.SESSION)
MEASURED = st.dictionaries(st.sampled_from(MEASUREMENTS), QUANTITIES)


@dataclass(frozen=True)
class Case:
    """A ledger, how far it is rolled up, and a question."""

    organization_id: str
    ledger: list[UsageEvent]
    rolled_up: int
    query: UsageQuery
    size: WindowSize | None
    zone: ZoneInfo
    as_of: int | None

    async def check(self, reader: UsageReader) -> None:
        answer = await reader.usage(self.organization_id, self.query, as_of_sequence=self.as_of)
        upto = len(self.ledger) if self.as_of is None else min(self.as_of, len(self.ledger))
        assert answer.position.sequence == upto
        expected = model_rows(self.ledger, self.query, upto, size=self.size, zone=self.zone)
        assert keyed(answer.rows, size=self.size, zone=self.zone) == expected
        assert len(answer.rows) == len(expected)
        assert list(answer.rows) == sorted(
            answer.rows, key=lambda row: (row.meter, row.window.start_us or 0, row.group)
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    change = draw(CHANGES)
    organization_id = f"org-{uuid4().hex}"
    moments = OFFSETS.map(lambda offset: change + offset)
    ledger: list[UsageEvent] = []
    standing: list[str] = []
    for number in range(draw(st.integers(0, 12))):
        if standing and draw(st.integers(0, 3)) == 0:
            target = standing.pop(draw(st.integers(0, len(standing) - 1)))
            ledger.append(reversal(f"e{number}", target, organization_id=organization_id))
            continue
        standing.append(f"e{number}")
        environment = draw(MOSTLY_NONE)
        ledger.append(
            usage(
                f"e{number}",
                draw(moments),
                draw(MEASURED),
                organization_id=organization_id,
                nanoseconds=draw(st.sampled_from([0, 0, 999])),
                provider_call=draw(
                    st.none()
                    | st.builds(
                        lambda output, latency_ns: call(output=output, latency_ns=latency_ns),
                        QUANTITIES,
                        st.sampled_from([None, 0, 999_999, 1_500_000, 86_400_000_000_000]),
                    )
                ),
                labels={"env": environment} if environment else {},
                project=draw(MOSTLY_NONE),
                user=draw(MOSTLY_NONE),
                agent=draw(MOSTLY_NONE),
                session=draw(MOSTLY_NONE),
            )
        )
    size = draw(st.none() | st.sampled_from(WindowSize))
    zone = ZoneInfo(draw(ZONES)) if size else ZoneInfo("UTC")
    edges = moments if size else st.none() | moments
    start, end = draw(edges), draw(edges)
    if start is not None and end is not None and start > end:
        start, end = end, start
    start_us, end_us = (None if edge is None else unix_microseconds(edge) for edge in (start, end))
    if size is None or start_us is None or end_us is None:
        windows: tuple[Window, ...] = (Window(start_us, end_us),)
    else:
        windows = cut(start_us, end_us, size, zone) or (Window(start_us, end_us),)
    filtered = draw(st.lists(DIMENSIONS, max_size=2, unique=True))
    return Case(
        organization_id,
        ledger,
        draw(st.integers(0, len(ledger))),
        UsageQuery(
            meters=METERS,
            windows=windows,
            group_by=tuple(draw(st.lists(DIMENSIONS, max_size=2, unique=True))),
            filters=tuple(Filter(each, draw(st.frozensets(NAMES, min_size=1))) for each in filtered),
        ),
        size,
        zone,
        draw(st.none() | st.integers(1, 14)),
    )


@settings(max_examples=300)
@given(cases())
def test_totals_in_memory_are_what_the_model_says(case: Case) -> None:
    async def run() -> None:
        memory = MemoryLedger()
        await record(memory, case.ledger)
        await case.check(MemoryUsageReader(memory))

    asyncio.run(run())


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """One event loop for all examples: connections belong to theirs."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def databases(
    migrated: Callable[[str], dict[str, str]], run: Callable[[Coroutine[Any, Any, None]], None]
) -> Iterator[dict[str, Database]]:
    opened = {kind: Database(url) for kind, url in migrated("metering").items()}
    yield opened
    for database in opened.values():
        run(database.close())


@settings(max_examples=200)
@given(case=cases())
def test_totals_with_rollups_at_any_position_are_what_the_model_says(
    case: Case, databases: dict[str, Database], run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        await record(PostgresLedgerWriter(databases["writer"]), case.ledger)
        await roll_up(databases, case.organization_id, case.rolled_up)
        await case.check(PostgresUsageReader(databases["tenant"]))
        await check_snapshot(PostgresLedgerReader(databases["tenant"]), case)

    run(check())


@settings(max_examples=60)
@given(case=cases(), positions=st.lists(st.integers(0, 12), max_size=4))
def test_rollups_come_back_the_same_however_they_were_first_made(
    case: Case,
    positions: list[int],
    databases: dict[str, Database],
    postgres: EmbeddedPostgres,
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def check(owner: psycopg.Connection) -> None:
        whole = len(case.ledger)
        await record(PostgresLedgerWriter(databases["writer"]), case.ledger)
        await roll_up(databases, case.organization_id, *sorted(min(each, whole) for each in positions), whole)
        first = rollup_rows(owner, case.organization_id)
        await PostgresRollups(databases["writer"]).rebuild(case.organization_id)
        assert not any(rollup_rows(owner, case.organization_id).values())
        await roll_up(databases, case.organization_id, whole)
        assert rollup_rows(owner, case.organization_id) == first
        await case.check(PostgresUsageReader(databases["tenant"]))

    with psycopg.connect(postgres.url, autocommit=True) as owner:
        run(check(owner))


async def check_snapshot(reader: LedgerReader, case: Case) -> None:
    """What SnapshotUsage answers: the sum of every measurement, whatever its meter makes of it."""
    edges = (case.query.windows[0].start_us, case.query.windows[-1].end_us)
    interval = Interval(*(None if edge is None else from_unix_microseconds(edge) for edge in edges))
    levels = tuple(LevelMeters(level, tuple(MEASUREMENTS)) for level in LEVELS)
    totals = await reader.totals(case.organization_id, interval, as_of_sequence=case.as_of, levels=levels)
    query = UsageQuery(meters=tuple(map(meter, MEASUREMENTS)), windows=(Window(*edges),))
    expected = model_rows(case.ledger, query, totals.position.sequence, size=None, zone=ZoneInfo("UTC"))
    assert totals.quantities == {name: quantity for (name, _, _), quantity in expected.items()}
    for level in LEVELS:
        by_member = replace(query, group_by=(level,))
        expected = model_rows(case.ledger, by_member, totals.position.sequence, size=None, zone=ZoneInfo("UTC"))
        of_members = {(name, group[0]): quantity for (name, _, group), quantity in expected.items()}
        found = {(row.meter, row.member): row.quantity for row in totals.members.rows if row.level is level}
        assert found == {key: quantity for key, quantity in of_members.items() if key[1] and quantity}


async def record(ledger: LedgerWriter, events: Sequence[UsageEvent]) -> None:
    if events:
        outcomes = await ledger.append(events, now=datetime.now(UTC))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}


async def roll_up(databases: dict[str, Database], organization_id: str, *positions: int) -> None:
    """Applies the ledger up to each of the positions, in spans from one to the next."""
    rollups, reader = PostgresRollups(databases["writer"]), PostgresLedgerReader(databases["tenant"])
    commits = {
        entry.sequence: entry.commit_id async for page in reader.read(organization_id, START) for entry in page.entries
    }
    if await rollups.position(organization_id) is None:
        await rollups.rebuild(organization_id)
    for position in positions:
        after = await rollups.position(organization_id)
        assert after is not None
        if position > after.sequence:
            page = Page((Span(after.sequence, position),), Position(position, commits[position]))
            assert await rollups.apply(organization_id, after, page)
