"""The promises of the ledger's ports, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, LogRewound
from kit.feed import START, Position
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.postgres_ledger import (
    PostgresLedgerHeads,
    PostgresLedgerReader,
    PostgresLedgerWriter,
)
from services.metering.application.ports import Interval, LedgerHeads, LedgerReader, LedgerWriter
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.events import LedgerEvent, Measurement, ProviderCall, Subject, UsageEvent

ALWAYS = Interval(None, None)


@dataclass
class Ledger:
    """The three ports over one store, and an organization that no other test uses."""

    writer: LedgerWriter
    reader: LedgerReader
    heads: LedgerHeads
    organization_id: str
    now: datetime

    def event(self, event_id: str, quantity: int = 1, *, ago: timedelta = timedelta(minutes=1)) -> UsageEvent:
        return UsageEvent(
            id=event_id,
            source="tests",
            subject=Subject(organization_id=self.organization_id),
            event_time_ns=unix_microseconds(self.now - ago) * 1_000,
            measurements=(Measurement("api_calls", quantity),),
        )

    async def append(self, *events: UsageEvent) -> list[Outcome]:
        return list(await self.writer.append(events, now=self.now))

    async def total(self, interval: Interval = ALWAYS, *, as_of: int | None = None) -> int:
        totals = await self.reader.totals(self.organization_id, interval, as_of_sequence=as_of)
        return totals.quantities.get("api_calls", 0)

    async def entries(self, after: Position = START) -> list[LedgerEvent]:
        return [entry async for page in self.reader.read(self.organization_id, after) for entry in page.entries]


@pytest.fixture(params=["memory", "postgres"])
async def ledger(request: pytest.FixtureRequest, migrated: Callable[[str], dict[str, str]]) -> AsyncIterator[Ledger]:
    place = {"organization_id": f"org-{uuid4().hex}", "now": datetime.now(UTC)}
    if request.param == "memory":
        memory = MemoryLedger()
        yield Ledger(memory, memory, memory, **place)  # type: ignore[arg-type]
        return
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    yield Ledger(
        PostgresLedgerWriter(databases["writer"]),
        PostgresLedgerReader(databases["tenant"]),
        PostgresLedgerHeads(databases["fleet"]),
        **place,  # type: ignore[arg-type]
    )
    for database in databases.values():
        await database.close()


async def test_an_event_is_counted_once_however_often_it_is_sent(ledger: Ledger) -> None:
    event = ledger.event("a", 7)
    assert await ledger.append(event) == [Outcome(Status.ACCEPTED, 1)]
    assert await ledger.append(event) == [Outcome(Status.DUPLICATE, 1)]
    assert await ledger.total() == 7


async def test_a_duplicate_inside_one_batch_is_counted_once(ledger: Ledger) -> None:
    event = ledger.event("a", 7)
    assert await ledger.append(event, event) == [Outcome(Status.ACCEPTED, 1), Outcome(Status.DUPLICATE, 1)]
    assert await ledger.total() == 7


async def test_the_same_id_with_another_time_is_a_conflict_and_not_counted(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 7))
    outcome = (await ledger.append(ledger.event("a", 7, ago=timedelta(hours=1))))[0]
    assert outcome.status is Status.CONFLICT
    assert outcome.refusal is not None
    assert outcome.refusal.reason == "CONTENT_CONFLICT"
    assert await ledger.total() == 7


async def test_a_conflict_leaves_the_rest_of_its_batch_standing(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 1))
    outcomes = await ledger.append(ledger.event("b", 10), ledger.event("a", 2), ledger.event("c", 100))
    assert [outcome.status for outcome in outcomes] == [Status.ACCEPTED, Status.CONFLICT, Status.ACCEPTED]
    assert [outcome.sequence for outcome in outcomes] == [2, 0, 3]
    assert await ledger.total() == 111


async def test_events_outside_the_time_window_are_refused_but_stay_duplicates_once_recorded(ledger: Ledger) -> None:
    old, early = limits.ACCEPTED_BACK + timedelta(seconds=1), -limits.ACCEPTED_AHEAD - timedelta(seconds=1)
    outcomes = await ledger.append(ledger.event("old", ago=old), ledger.event("early", ago=early))
    assert [outcome.refusal and outcome.refusal.reason for outcome in outcomes] == ["EVENT_TOO_OLD", "EVENT_IN_FUTURE"]
    edge = ledger.event("edge", ago=limits.ACCEPTED_BACK)
    assert (await ledger.append(edge))[0].status is Status.ACCEPTED
    ledger.now += timedelta(days=400)
    assert (await ledger.append(edge))[0].status is Status.DUPLICATE


async def test_concurrent_copies_of_one_batch_are_counted_once(ledger: Ledger) -> None:
    batch = [ledger.event(f"e{number}") for number in range(50)]
    answers = await asyncio.gather(*(ledger.append(*batch) for _ in range(8)))
    accepted = [outcome for answer in answers for outcome in answer if outcome.status is Status.ACCEPTED]
    assert len(accepted) == 50
    assert {outcome.status for answer in answers for outcome in answer} == {Status.ACCEPTED, Status.DUPLICATE}
    assert await ledger.total() == 50


async def test_sequences_are_gapless_in_the_order_of_the_ledger(ledger: Ledger) -> None:
    batches = [[ledger.event(f"{batch}-{number}") for number in range(7)] for batch in range(20)]
    await asyncio.gather(*(ledger.append(*batch) for batch in batches))
    assert [entry.sequence for entry in await ledger.entries()] == list(range(1, 141))


async def test_batches_of_shared_organizations_in_any_order_do_not_deadlock(ledger: Ledger) -> None:
    organizations = [f"{ledger.organization_id}-{number}" for number in range(6)]

    def batch(name: str, order: list[str]) -> list[UsageEvent]:
        event = ledger.event(name)
        return [replace(event, subject=Subject(organization_id=organization_id)) for organization_id in order]

    orders = [organizations, organizations[::-1], organizations[3:] + organizations[:3]] * 5
    answers = await asyncio.gather(*(ledger.append(*batch(f"b{number}", order)) for number, order in enumerate(orders)))
    assert all(outcome.status is Status.ACCEPTED for answer in answers for outcome in answer)


async def test_the_ledger_reads_back_what_was_sent_to_the_nanosecond(ledger: Ledger) -> None:
    event = replace(
        ledger.event("a"),
        subject=Subject(
            organization_id=ledger.organization_id,
            project_id="p",
            team_id="t",
            user_id="u",
            agent_id="a",
            task_id="k",
            session_id="s",
        ),
        event_time_ns=unix_microseconds(ledger.now) * 1_000 - 999,
        measurements=(Measurement("agent_minutes", 2**53 - 1), Measurement("api_calls", 0)),
        provider_call=ProviderCall(
            provider="openai_codex",
            model="m",
            operation="completion",
            tokens_input_uncached=2**53 - 1,
            tokens_cache_read=1,
            tokens_cache_write=2,
            tokens_output=3,
            tokens_reasoning=4,
            latency_ns=123_456_789,
            outcome=1,
            error_code="",
        ),
        reservation_id="r",
        reservation_final=True,
    )
    await ledger.append(event)
    entry = (await ledger.entries())[0]
    assert entry.event == event
    assert entry.receive_time_us == unix_microseconds(ledger.now)


async def test_reading_after_a_position_gives_exactly_what_follows_it(ledger: Ledger) -> None:
    count = limits.PAGE_EVENTS * 2 + 3
    for start in range(0, count, 400):
        await ledger.append(*(ledger.event(f"e{number}") for number in range(start, min(start + 400, count))))
    pages = [page async for page in ledger.reader.read(ledger.organization_id, START)]
    assert sum(len(page.entries) for page in pages) == count
    middle = pages[0].position
    assert [entry.sequence for entry in await ledger.entries(middle)] == list(range(middle.sequence + 1, count + 1))
    assert await ledger.entries(pages[-1].position) == []


async def test_a_position_of_another_history_is_told_that_the_log_was_rewound(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a"))
    for foreign in (Position(1, "another"), Position(2, "beyond")):
        with pytest.raises(LogRewound):
            await ledger.entries(foreign)


async def test_totals_count_a_half_open_interval_to_the_microsecond(ledger: Ledger) -> None:
    start = ledger.now - timedelta(hours=1)
    for name, offset_us in (("before", -1), ("at", 0), ("inside", 1), ("last", 999_999), ("end", 1_000_000)):
        event = replace(ledger.event(name), event_time_ns=(unix_microseconds(start) + offset_us) * 1_000 + 999)
        await ledger.append(event)
    assert await ledger.total(Interval(start, start + timedelta(seconds=1))) == 3
    assert await ledger.total(Interval(start, start)) == 0
    assert await ledger.total(Interval(start, None)) == 4
    assert await ledger.total(Interval(None, start)) == 1


async def test_totals_as_of_a_sequence_never_change(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 1), ledger.event("b", 10))
    assert await ledger.total(as_of=1) == 1
    await ledger.append(ledger.event("c", 100))
    assert await ledger.total(as_of=2) == 11
    assert await ledger.total(as_of=99) == 111


async def test_heads_tell_how_far_each_ledger_reaches(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a"), ledger.event("b"))
    last = (await ledger.entries())[-1]
    heads = {head.key: head.position for head in await ledger.heads.heads()}
    assert heads[ledger.organization_id] == Position(last.sequence, last.commit_id)


async def test_an_unknown_organization_has_an_empty_ledger(ledger: Ledger) -> None:
    assert await ledger.entries() == []
    assert (await ledger.reader.totals(ledger.organization_id, ALWAYS, as_of_sequence=None)).position == START


async def test_a_log_that_lost_entries_is_rewound_and_never_read_past_the_gap(
    migrated: Callable[[str], dict[str, str]], postgres: EmbeddedPostgres
) -> None:
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    reader = PostgresLedgerReader(databases["tenant"])
    ledger = Ledger(
        PostgresLedgerWriter(databases["writer"]),
        reader,
        PostgresLedgerHeads(databases["fleet"]),
        f"org-{uuid4().hex}",
        datetime.now(UTC),
    )
    await ledger.append(*(ledger.event(str(number)) for number in range(3)))
    with psycopg.connect(postgres.url) as owner:
        owner.execute(
            "DELETE FROM metering.events WHERE organization_id = %s AND sequence = 2", (ledger.organization_id,)
        )
    with pytest.raises(LogRewound):
        await ledger.entries()
    for database in databases.values():
        await database.close()


async def test_metering_is_not_ready_without_the_partition_of_tomorrow(
    migrated: Callable[[str], dict[str, str]], postgres: EmbeddedPostgres
) -> None:
    fleet = Database(migrated("metering")["fleet"])
    heads = PostgresLedgerHeads(fleet)
    await heads.require_partitions()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    partition = f"events_{tomorrow - timedelta(days=tomorrow.weekday()):%Y%m%d}"
    rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
    with psycopg.connect(postgres.url, autocommit=True) as owner:
        owner.execute(rename.format(sql.Identifier("metering", partition), sql.Identifier("away")))
        try:
            with pytest.raises(DependencyUnavailable, match="partition"):
                await heads.require_partitions()
        finally:
            owner.execute(rename.format(sql.Identifier("metering", "away"), sql.Identifier(partition)))
    await fleet.close()
