"""Rollups follow the ledger exactly once, whatever happens to whoever keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable
from kit.feed import START, Follower, Page, Position
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads, PostgresLedgerWriter
from services.metering.adapters.postgres_rollups import LedgerSpans, PostgresRollups, RawEventsGone, Span
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.domain import limits
from services.metering.domain.grouping import SubjectPart
from services.metering.domain.rollups import BUCKET_US
from services.metering.domain.usage_query import UsageQuery
from services.metering.domain.windows import Window
from tests.integration.rollup_tables import rollup_rows
from tests.usage_model import call, meter, reversal, usage

NOON = datetime(2025, 6, 11, 12, tzinfo=UTC)
CALLS = meter("api_calls")


@dataclass
class Ledger:
    """An organization's ledger with its rollups."""

    writer: PostgresLedgerWriter
    rollups: PostgresRollups
    spans: LedgerSpans
    reader: PostgresUsageReader
    owner: psycopg.Connection
    organization_id: str

    async def record(self, *quantities: int, moment: datetime = NOON, **named: Any) -> None:
        await self.writer.append(
            [
                usage(
                    uuid4().hex,
                    moment,
                    {"api_calls": quantity},
                    organization_id=self.organization_id,
                    provider_call=call(output=quantity),
                    **named,
                )
                for quantity in quantities
            ],
            now=datetime.now(UTC),
        )

    def follower(self) -> Follower[Span]:
        return Follower("tests", self.spans, self.rollups)

    async def catch_up(self) -> None:
        await self.follower().catch_up(self.organization_id)

    async def total(self) -> int:
        query = UsageQuery(meters=(CALLS,), windows=(Window(None, None),))
        answer = await self.reader.usage(self.organization_id, query, as_of_sequence=None)
        return sum(row.quantity for row in answer.rows)

    def rolled_up(self) -> int:
        """What the rollups alone say."""
        (rows,) = self.owner.execute(
            "SELECT coalesce(sum(quantity), 0) FROM metering.rollup_measurements WHERE organization_id = %s",
            (self.organization_id,),
        ).fetchall()
        return int(rows[0])

    def rows(self) -> object:
        return rollup_rows(self.owner, self.organization_id)

    async def position(self) -> Position | None:
        return await self.rollups.position(self.organization_id)


@pytest.fixture
def owner(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def ledger(migrated: Callable[[str], dict[str, str]], owner: psycopg.Connection) -> AsyncIterator[Ledger]:
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    writer = databases["writer"]
    yield Ledger(
        PostgresLedgerWriter(writer),
        PostgresRollups(writer),
        LedgerSpans(writer, HeadWatch(PostgresLedgerHeads(databases["fleet"]).heads)),
        PostgresUsageReader(databases["tenant"]),
        owner,
        f"org-{uuid4().hex}",
    )
    for database in databases.values():
        await database.close()


async def test_many_keepers_at_once_count_every_event_once(ledger: Ledger) -> None:
    for number in range(10):
        await ledger.record(*range(20), agent=f"a{number}")
    await asyncio.gather(*(ledger.catch_up() for _ in range(6)))
    await ledger.catch_up()
    assert ledger.rolled_up() == await ledger.total() == 10 * sum(range(20))


async def test_a_span_applied_again_changes_nothing(ledger: Ledger) -> None:
    await ledger.record(1, 2)
    await ledger.catch_up()
    before, position = ledger.rows(), await ledger.position()
    assert position is not None
    again = Page((Span(0, position.sequence),), position)
    assert not await ledger.rollups.apply(ledger.organization_id, START, again)
    assert (ledger.rows(), await ledger.position()) == (before, position)


async def test_a_keeper_that_is_killed_leaves_rows_and_position_together(
    ledger: Ledger, migrated: Callable[[str], dict[str, str]]
) -> None:
    """F21: killed in the middle of writing, when it holds the position and has not moved it."""
    await ledger.record(1, 2)
    await ledger.catch_up()
    await ledger.record(4)
    doomed = Database(migrated("metering")["writer"], pool_size=1)
    async with doomed.transaction() as connection:
        process = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
    # Somebody holds a row that it must add to, until the server has killed whoever waits for it.
    with psycopg.connect(ledger.owner.info.dsn, password=ledger.owner.info.password) as blocker:
        blocker.execute(
            "SELECT FROM metering.rollup_calls WHERE organization_id = %s FOR UPDATE", (ledger.organization_id,)
        )
        keeper = Follower("doomed", ledger.spans, PostgresRollups(doomed))
        killed = asyncio.create_task(keeper.catch_up(ledger.organization_id))
        waiting: list[Any] = []
        async with asyncio.timeout(10):
            while not waiting:
                waiting = ledger.owner.execute(
                    "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", (process,)
                ).fetchall()
                await asyncio.sleep(0)
        ledger.owner.execute("SELECT pg_terminate_backend(%s)", (process,))
        with pytest.raises(DependencyUnavailable):
            await killed
    await doomed.close()
    assert ledger.rolled_up() == 3
    await ledger.catch_up()
    assert ledger.rolled_up() == await ledger.total() == 7


async def test_late_and_reversed_events_correct_the_bucket_of_their_time(ledger: Ledger) -> None:
    """F22: rollups go by sequence, so there is no bucket that is closed."""
    await ledger.record(1, moment=NOON)
    await ledger.catch_up()
    await ledger.record(10, moment=NOON - timedelta(days=300))
    mistaken = usage("mistaken", NOON, {"api_calls": 100}, organization_id=ledger.organization_id)
    await ledger.writer.append([mistaken], now=datetime.now(UTC))
    await ledger.catch_up()
    undo = reversal("undo", "mistaken", organization_id=ledger.organization_id)
    await ledger.writer.append([undo], now=datetime.now(UTC))
    await ledger.catch_up()
    buckets = ledger.owner.execute(
        "SELECT bucket_start, quantity, event_count FROM metering.rollup_measurements"
        " WHERE organization_id = %s ORDER BY bucket_start",
        (ledger.organization_id,),
    ).fetchall()
    assert buckets == [(NOON - timedelta(days=300), 10, 1), (NOON, 1, 1)]


async def test_rollups_that_were_emptied_come_back_the_same(ledger: Ledger) -> None:
    """F23."""
    for number in range(5):
        await ledger.record(number, 7, moment=NOON + timedelta(minutes=number * 7), user=f"u{number % 2}")
        await ledger.catch_up()
    before = ledger.rows()
    ledger.owner.execute(
        "TRUNCATE metering.rollup_positions, metering.rollup_measurements, metering.rollup_calls,"
        " metering.subject_rollup_measurements, metering.subject_rollup_calls"
    )
    assert await ledger.total() == 45
    await ledger.catch_up()
    assert ledger.rows() == before


async def test_a_rewound_ledger_is_rolled_up_anew(ledger: Ledger) -> None:
    await ledger.record(1, 2)
    await ledger.catch_up()
    before = ledger.rows()
    ledger.owner.execute(
        "UPDATE metering.rollup_positions SET commit_id = 'another' WHERE organization_id = %s",
        (ledger.organization_id,),
    )
    await ledger.catch_up()
    await ledger.catch_up()
    assert ledger.rows() == before


async def test_rollups_whose_events_are_gone_are_never_dropped(ledger: Ledger) -> None:
    await ledger.record(1, 2)
    await ledger.catch_up()
    before = ledger.rows()
    ledger.owner.execute(
        "DELETE FROM metering.events WHERE organization_id = %s AND sequence = 1", (ledger.organization_id,)
    )
    with pytest.raises(RawEventsGone):
        await ledger.rollups.rebuild(ledger.organization_id)
    assert ledger.rows() == before


async def test_a_gap_in_the_events_is_not_rolled_over(ledger: Ledger) -> None:
    await ledger.record(1, 2, 3)
    ledger.owner.execute(
        "DELETE FROM metering.events WHERE organization_id = %s AND sequence = 2", (ledger.organization_id,)
    )
    with pytest.raises(RawEventsGone):
        await ledger.catch_up()
    assert await ledger.position() == START


async def test_a_long_ledger_is_rolled_up_in_spans(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROLLUP_SPAN_EVENTS", 3)
    await ledger.record(*range(10))
    pages = [page async for page in ledger.spans.read(ledger.organization_id, START)]
    assert [page.entries for page in pages] == [(Span(0, 3),), (Span(3, 6),), (Span(6, 9),), (Span(9, 10),)]
    await ledger.catch_up()
    assert ledger.rolled_up() == 45


async def test_whole_buckets_are_read_from_rollups_and_only_the_edges_from_events(ledger: Ledger) -> None:
    """Told by making the rollups lie: what they hold shows in the answer, bucket by bucket."""
    for number in range(4):
        await ledger.record(1, moment=NOON + timedelta(microseconds=number * BUCKET_US + 1), agent="a")
    await ledger.catch_up()
    for table in ("rollup_measurements", "subject_rollup_measurements"):
        ledger.owner.execute(
            f"UPDATE metering.{table} SET quantity = 100 WHERE organization_id = %s",  # noqa: S608 - a constant
            (ledger.organization_id,),
        )
    noon_us = unix_microseconds(NOON)
    for group_by, lies in (((), True), ((SubjectPart.AGENT,), True), ((SubjectPart.TASK,), False)):
        for start_us, end_us, told in (
            (noon_us, noon_us + 4 * BUCKET_US, 400 if lies else 4),
            (noon_us + 1, noon_us + 4 * BUCKET_US, 301 if lies else 4),
            (noon_us, noon_us + 3 * BUCKET_US + 2, 301 if lies else 4),
            (noon_us + 1, noon_us + BUCKET_US + 2, 2),
        ):
            query = UsageQuery(meters=(CALLS,), windows=(Window(start_us, end_us),), group_by=group_by)
            answer = await ledger.reader.usage(ledger.organization_id, query, as_of_sequence=None)
            assert [row.quantity for row in answer.rows] == [told]


async def test_a_tenant_sees_no_rollups_but_its_own_and_changes_none(
    ledger: Ledger, migrated: Callable[[str], dict[str, str]]
) -> None:
    await ledger.record(1)
    await ledger.catch_up()
    with psycopg.connect(migrated("metering")["tenant"]) as tenant:
        tenant.execute("SET LOCAL tollbook.organization_id = 'another'")
        assert tenant.execute("SELECT count(*) FROM metering.rollup_measurements").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            tenant.execute("DELETE FROM metering.rollup_measurements")
