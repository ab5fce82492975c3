"""What is dropped changes no total: an answer is what it was, or a refusal, and never a smaller number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.clock import SystemClock
from kit.errors import OutOfRetention
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.memory_usage import MemoryUsageReader
from services.metering.adapters.parquet_archive import ParquetArchive
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads, PostgresLedgerReader, PostgresLedgerWriter
from services.metering.adapters.postgres_old_weeks import PostgresOldWeeks
from services.metering.adapters.postgres_rollups import PostgresRollups
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.application.ports import LedgerWriter, UsageReader
from services.metering.application.retire_weeks import RetireWeeks
from services.metering.domain.acceptance import Status
from services.metering.domain.retention import raw_windows
from tests.old_weeks import OLD, moment, old_weeks
from tests.properties.test_usage_model import Case, cases, check_snapshot, roll_up


async def record(ledger: LedgerWriter, case: Case, dropped: int) -> None:
    """The first `dropped` entries half a year ago, the others now."""
    for events, at in ((case.ledger[:dropped], moment(hours=1)), (case.ledger[dropped:], datetime.now(UTC))):
        if events:
            outcomes = await ledger.append(events, now=at)
            assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}


async def check(case: Case, reader: UsageReader, dropped: int) -> None:
    """Equal to the model, or refused; and refused only where events are needed."""
    is_behind = case.as_of is not None and case.as_of < dropped
    needs_events = any(raw_windows(case.query, meter.aggregation) for meter in case.query.meters)
    try:
        await case.check(reader)
    except OutOfRetention:
        assert dropped
        assert is_behind or needs_events
    else:
        assert not is_behind


@settings(max_examples=300, deadline=None)
@given(case=cases(), share=st.integers(0, 12))
def test_totals_in_memory_after_a_drop_are_what_the_model_says_or_refused(case: Case, share: int) -> None:
    async def run() -> None:
        memory, dropped = MemoryLedger(), min(share, len(case.ledger))
        await record(memory, case, dropped)
        memory.drop(case.organization_id, upto=dropped)
        for query in each_meter_alone(case):
            await check(query, MemoryUsageReader(memory), dropped)

    asyncio.run(run())


def each_meter_alone(case: Case) -> Iterator[Case]:
    """One refusal must not hide the answers of the other meters."""
    for meter in case.query.meters:
        query = type(case.query)(
            meters=(meter,), windows=case.query.windows, group_by=case.query.group_by, filters=case.query.filters
        )
        yield Case(case.organization_id, case.ledger, case.rolled_up, query, case.size, case.zone, case.as_of)


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), share=st.integers(0, 12), rolled_up=st.sampled_from(["before", "part", "anew", "not at all"]))
def test_totals_after_a_week_was_dropped_are_what_the_model_says_or_refused(
    *,
    case: Case,
    share: int,
    rolled_up: str,
    databases: dict[str, Database],
    postgres: EmbeddedPostgres,
    tmp_path: Path,
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    dropped = min(share, len(case.ledger))

    async def check_all() -> None:
        await record(PostgresLedgerWriter(databases["writer"]), case, dropped)
        if rolled_up in ("before", "part") and case.ledger:
            await roll_up(
                databases, case.organization_id, len(case.ledger) if rolled_up == "before" else case.rolled_up
            )
        heads = PostgresLedgerHeads(databases["fleet"])
        retired = await RetireWeeks(
            PostgresOldWeeks(databases["fleet"], databases["writer"], heads),
            ParquetArchive(tmp_path),
            SystemClock(),
            retention=timedelta(days=90),
            followers=[],
        )()
        assert (retired.dropped, retired.held) == ((OLD,), None)
        if rolled_up == "anew":
            await PostgresRollups(databases["writer"]).rebuild(case.organization_id)
        for each in each_meter_alone(case):
            await check(each, PostgresUsageReader(databases["tenant"]), dropped)
        try:
            await check_snapshot(PostgresLedgerReader(databases["tenant"]), case)
        except OutOfRetention:
            assert dropped

    with old_weeks(postgres.url, OLD):
        run(check_all())
