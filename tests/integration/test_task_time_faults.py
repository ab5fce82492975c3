"""Task time while Postgres cuts connections at random moments, commits under way included."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable
from kit.feed import START
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.postgres_ledger import PostgresLedgerReader
from services.metering.adapters.postgres_task_times import PostgresTaskTimes
from services.metering.domain.events import LedgerEvent, Subject, TaskOutcome
from services.metering.domain.task_time import TaskPhase, TaskReport

TASKS, REPORTS, CUTS = 6, 40, 60
NOW = datetime.now(UTC)
START_MS = unix_microseconds(NOW - timedelta(hours=1)) // 1_000
_CUT = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE usename = 'tollbook_metering_writer' AND state <> 'idle'
"""


@dataclass
class Orchestrator:
    """Sends every report of every task, in another order each, until it is answered."""

    times: PostgresTaskTimes
    organization_id: str
    retries: int = 0

    async def run(self, task: int) -> None:
        numbers = list(range(REPORTS + 1))
        random.Random(task).shuffle(numbers)
        for number in numbers:
            while not await self.is_answered(task, number):
                self.retries += 1

    async def is_answered(self, task: int, number: int) -> bool:
        ends = number == REPORTS
        report = TaskReport(
            subject=Subject(organization_id=self.organization_id, task_id=f"task-{task}"),
            phase=TaskPhase.END if ends else TaskPhase.HEARTBEAT,
            time_ms=START_MS + number * 10_000,
            outcome=TaskOutcome.SUCCEEDED if ends else TaskOutcome.UNSPECIFIED,
        )
        try:
            await self.times.append([report], now=NOW)
        except DependencyUnavailable:
            return False
        return True


async def cut_connections(owner_url: str) -> None:
    cut = 0
    async with await psycopg.AsyncConnection.connect(owner_url, autocommit=True) as owner:
        while cut < CUTS:
            row = await (await owner.execute(_CUT)).fetchone()
            assert row is not None
            cut += row[0]


async def test_time_is_neither_lost_nor_counted_twice_while_connections_are_cut(
    postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]
) -> None:
    urls = migrated("metering")
    writer, tenant = Database(urls["writer"]), Database(urls["tenant"])
    orchestrator = Orchestrator(PostgresTaskTimes(writer), f"org-{uuid4().hex}")
    try:
        saboteur = asyncio.create_task(cut_connections(postgres.url))
        # Again when all were answered before enough was cut: repeating them changes nothing.
        while not saboteur.done():
            await asyncio.gather(*(orchestrator.run(task) for task in range(TASKS)))
        await saboteur
        entries = await ledger_of(tenant, orchestrator.organization_id)
    finally:
        await writer.close()
        await tenant.close()
    assert orchestrator.retries > 0
    assert sum(entry.event.measurements[0].quantity for entry in entries) == TASKS * REPORTS * 10_000
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))


async def ledger_of(tenant: Database, organization_id: str) -> list[LedgerEvent]:
    reader = PostgresLedgerReader(tenant)
    return [entry async for page in reader.read(organization_id, START) for entry in page.entries]
