"""F4: what is sent again long after anybody else would have forgotten it. Identities are kept for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from kit.clock import unix_microseconds
from kit.postgres.database import Database
from kit.testing.stores import free_port
from services.metering.adapters.postgres_ledger import PostgresLedgerReader, PostgresLedgerWriter
from services.metering.application.ports import Interval
from services.metering.domain import limits
from services.metering.domain.events import EventRef, Measurement, Subject, UsageEvent
from tests.conftest import RoleUrls
from tests.metering_process import ADMIN, Site, metering_processes, usage_event
from tollbook.errors.v1 import errors_pb2
from tollbook.metering.v1 import metering_pb2

NOW = datetime.now(UTC)
YEARS_LATER = [NOW + timedelta(days=days) for days in (34, 36, 90, 400, 4_000)]
ANCIENT = NOW - limits.ACCEPTED_BACK - timedelta(days=1)


@dataclass
class Ledger:
    """An organization's ledger in Postgres, and a clock that the test moves."""

    writer: PostgresLedgerWriter
    reader: PostgresLedgerReader
    organization_id: str

    def event(self, name: str, moment: datetime, quantity: int = 1) -> UsageEvent:
        return UsageEvent(
            id=name,
            source="tests",
            subject=Subject(organization_id=self.organization_id),
            event_time_ns=unix_microseconds(moment) * 1_000,
            measurements=(Measurement("api_calls", quantity),),
        )

    async def send(self, *events: UsageEvent, now: datetime = NOW) -> list[str]:
        outcomes = await self.writer.append(events, now=now)
        return [each.refusal.reason if each.refusal else each.status.value for each in outcomes]

    async def total(self) -> int:
        totals = await self.reader.totals(self.organization_id, Interval(None, None), as_of_sequence=None)
        return totals.quantities.get("api_calls", 0)


@pytest.fixture
async def ledger(migrated: Callable[[str], RoleUrls], organization_id: str) -> AsyncIterator[Ledger]:
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    writer, reader = PostgresLedgerWriter(databases["writer"]), PostgresLedgerReader(databases["tenant"])
    yield Ledger(writer, reader, organization_id)
    for database in databases.values():
        await database.close()


@pytest.mark.parametrize("later", YEARS_LATER, ids=lambda later: f"{(later - NOW).days} days")
async def test_a_recorded_event_is_a_duplicate_and_its_other_content_a_conflict_for_ever(
    ledger: Ledger, later: datetime
) -> None:
    event = ledger.event("recorded", NOW, 7)
    taken_back = ledger.event("taken back", NOW, 5)
    bare = Subject(organization_id=ledger.organization_id)
    reversal = UsageEvent(
        id="reversal",
        source="tests",
        subject=bare,
        event_time_ns=None,
        measurements=(),
        reversal_of=EventRef("tests", "taken back"),
    )
    assert await ledger.send(event, taken_back, reversal) == ["ACCEPTED"] * 3
    for is_backfill in (False, True):
        again = [replace(each, is_backfill=is_backfill) for each in (event, taken_back, reversal)]
        assert await ledger.send(*again, now=later) == ["DUPLICATE"] * 3
        other = replace(ledger.event("recorded", NOW, 8), is_backfill=is_backfill)
        moved = replace(ledger.event("recorded", later, 7), is_backfill=is_backfill)
        assert await ledger.send(other, moved, now=later) == ["CONTENT_CONFLICT"] * 2
    assert await ledger.total() == 7


async def test_an_old_event_that_was_never_recorded_is_refused_by_its_age_however_often_it_comes(
    ledger: Ledger,
) -> None:
    event = ledger.event("late", ANCIENT)
    for _ in range(3):
        assert await ledger.send(event, event) == ["EVENT_TOO_OLD"] * 2
    assert await ledger.total() == 0


async def test_a_backfilled_event_counts_once_whichever_way_it_comes_again(ledger: Ledger) -> None:
    event = ledger.event("late", ANCIENT, 3)
    backfilled = replace(event, is_backfill=True)
    assert await ledger.send(event, backfilled, event, backfilled) == [
        "EVENT_TOO_OLD",
        "ACCEPTED",
        "DUPLICATE",
        "DUPLICATE",
    ]
    assert await ledger.send(event, backfilled, now=YEARS_LATER[-1]) == ["DUPLICATE", "DUPLICATE"]
    assert await ledger.send(ledger.event("late", ANCIENT, 4)) == ["CONTENT_CONFLICT"]
    assert await ledger.total() == 3


async def test_a_process_answers_old_events_by_what_was_recorded_and_then_by_their_age(
    site: Site, organization_id: str
) -> None:
    event = usage_event("late", organization_id)
    event.event_time.FromDatetime(ANCIENT)
    other = metering_pb2.UsageEvent()
    other.CopyFrom(event)
    other.measurements[0].quantity = 2
    answers: list[tuple[str, str]] = []
    metrics_address = f"127.0.0.1:{free_port()}"
    async with (
        metering_processes(site, TOLLBOOK_METRICS_ADDRESS=metrics_address) as (metering,),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        for sent, backfill in ((event, False), (event, True), (event, False), (event, True), (other, True)):
            request = metering_pb2.RecordUsageRequest(events=[sent], backfill=backfill)
            (result,) = (await metering.stub.RecordUsage(request, metadata=ADMIN)).results
            status = metering_pb2.EventStatus.Name(result.status).removeprefix("EVENT_STATUS_")
            answers.append((status, errors_pb2.ErrorReason.Name(result.reason).removeprefix("ERROR_REASON_")))
        metrics = (await client.get(f"http://{metrics_address}/metrics")).text
    assert answers == [
        ("REJECTED", "EVENT_TOO_OLD"),
        ("ACCEPTED", "UNSPECIFIED"),
        ("DUPLICATE", "UNSPECIFIED"),
        ("DUPLICATE", "UNSPECIFIED"),
        ("CONFLICT", "CONTENT_CONFLICT"),
    ]
    for status, count in (("ACCEPTED", 1), ("DUPLICATE", 2), ("CONFLICT", 1), ("REJECTED", 1)):
        assert f'tollbook_metering_decided_events_total{{status="{status}"}} {count}.0' in metrics
