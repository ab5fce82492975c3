"""F7: usage is recorded across midnights, and with partitions missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2
from psycopg import sql

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable
from kit.grpc.errors import reason_of
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate
from kit.testing.stores import temporary_postgres
from services.metering.adapters.postgres_ledger import PostgresLedgerWriter
from services.metering.domain import limits
from services.metering.domain.acceptance import Status
from services.metering.domain.events import Measurement, Subject, UsageEvent
from tests.conftest import ROLE_KINDS, RoleUrls
from tests.metering_process import (
    MeteringProcess,
    Site,
    metering_processes,
    serving_accounts,
    stored_ledger,
    usage_events,
)
from tollbook.metering.v1 import metering_pb2

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ACCEPTED = metering_pb2.EVENT_STATUS_ACCEPTED
MICROSECOND = timedelta(microseconds=1)
_OF_EVENTS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'metering.events'::regclass"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A Postgres whose partitions the test may drop, and what a metering process on it needs."""

    postgres: EmbeddedPostgres
    site: Site

    def owner(self, *statements: str) -> None:
        with psycopg.connect(self.postgres.url, autocommit=True) as owner:
            for statement in statements:
                owner.execute(statement.encode())

    def partitions(self) -> list[str]:
        with psycopg.connect(self.postgres.url) as owner:
            return sorted(row[0] for row in owner.execute(_OF_EVENTS))

    def drop_partitions(self) -> list[str]:
        dropped = self.partitions()
        with psycopg.connect(self.postgres.url, autocommit=True) as owner:
            for name in dropped:
                owner.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(*name.split("."))))
        return dropped


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[EmbeddedPostgres]:
    with temporary_postgres(not_durable=True) as server:
        yield server


@pytest.fixture
async def scene(tmp_path: Path, own_postgres: EmbeddedPostgres) -> AsyncIterator[Scene]:
    passwords = {kind: f"{kind}-password-of-tests" for kind in ROLE_KINDS}
    await asyncio.to_thread(migrate, own_postgres.url, "metering", passwords)
    place = own_postgres.url.rpartition("@")[2]
    urls = {kind: f"postgresql://tollbook_metering_{kind}:{passwords[kind]}@{place}" for kind in ROLE_KINDS}
    async with serving_accounts() as accounts_address:
        site = Site(urls=urls, accounts_address=accounts_address, log_path=tmp_path / "metering.log")
        yield Scene(postgres=own_postgres, site=site)


async def health_of(metering: MeteringProcess, wanted: int) -> None:
    """Waits until the process says this of itself."""
    watch: grpc.aio.UnaryStreamMultiCallable[Any, Any] = metering.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    call: Any = watch(health_pb2.HealthCheckRequest())
    async with asyncio.timeout(30):
        while (await call.read()).status != wanted:
            pass
    call.cancel()


async def test_a_missing_partition_takes_the_service_out_of_rotation_loses_nothing_and_is_made_by_the_service(
    scene: Scene, organization_id: str
) -> None:
    """B9."""
    batch = usage_events("midnight", 10, organization_id)
    function = "FUNCTION metering.make_event_partitions(integer)"
    async with metering_processes(scene.site) as (metering,):
        # Nobody can make partitions for a while: what is seen then is not a matter of how fast the service repairs.
        scene.owner(f"REVOKE EXECUTE ON {function} FROM tollbook_metering_fleet")
        dropped = scene.drop_partitions()
        await health_of(metering, NOT_SERVING)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await metering.record(batch)
        assert (caught.value.code().name, reason_of(caught.value)) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
        (await stored_ledger(scene.postgres.url, organization_id)).assert_holds(set())
        scene.owner(f"GRANT EXECUTE ON {function} TO tollbook_metering_fleet")
        await health_of(metering, SERVING)
        assert scene.partitions() == dropped
        assert {result.status for result in (await metering.record(batch)).results} == {ACCEPTED}
    (await stored_ledger(scene.postgres.url, organization_id)).assert_holds({event.id for event in batch})


async def test_a_service_that_starts_without_partitions_makes_them_before_it_serves(
    scene: Scene, organization_id: str
) -> None:
    dropped = scene.drop_partitions()
    async with metering_processes(scene.site) as (metering,):
        assert scene.partitions() == dropped
        answer = await metering.record(usage_events("first", 3, organization_id))
        assert {result.status for result in answer.results} == {ACCEPTED}


def test_there_is_no_default_partition_whose_rows_could_block_the_right_one(
    postgres: EmbeddedPostgres, migrated: Callable[[str], RoleUrls]
) -> None:
    """B9."""
    migrated("metering")
    with psycopg.connect(postgres.url) as owner:
        row = owner.execute(
            "SELECT partdefid FROM pg_partitioned_table WHERE partrelid = 'metering.events'::regclass"
        ).fetchone()
    assert row == (0,)


@pytest.fixture
async def writer(migrated: Callable[[str], RoleUrls]) -> AsyncIterator[PostgresLedgerWriter]:
    database = Database(migrated("metering")["writer"])
    yield PostgresLedgerWriter(database)
    await database.close()


def event_at(moment: datetime, organization_id: str) -> UsageEvent:
    return UsageEvent(
        id=moment.isoformat(),
        source="tests",
        subject=Subject(organization_id=organization_id),
        event_time_ns=unix_microseconds(moment) * 1_000,
        measurements=(Measurement("api_calls", 1),),
    )


async def test_usage_is_recorded_across_every_midnight_of_the_weeks_that_are_made_ahead(
    writer: PostgresLedgerWriter, postgres: EmbeddedPostgres, organization_id: str
) -> None:
    """B9: no week, month or year begins without its partition. The clock is moved over each."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    midnights = [today + timedelta(days=day) for day in range(1, limits.PARTITION_DAYS_AHEAD + 1)]
    moments = [midnight + number * MICROSECOND for midnight in midnights for number in (-1, 0, 1)]
    for moment in moments:
        event = event_at(moment, organization_id)
        assert [each.status for each in await writer.append([event], now=moment)] == [Status.ACCEPTED]
        again = await writer.append([event, replace(event, reservation_id="r")], now=moment)
        assert [each.status for each in again] == [Status.DUPLICATE, Status.CONFLICT]
    (await stored_ledger(postgres.url, organization_id)).assert_holds({moment.isoformat() for moment in moments})
    with psycopg.connect(postgres.url) as owner:
        rows = owner.execute(
            "SELECT tableoid::regclass::text, date_trunc('week', receive_time AT TIME ZONE 'UTC')::date"
            " FROM metering.events WHERE organization_id = %s",
            (organization_id,),
        ).fetchall()
    assert {(name, f"metering.events_{week:%Y%m%d}") for name, week in rows} == {(name, name) for name, _ in rows}


async def test_a_time_without_a_partition_is_refused_as_unavailable_and_leaves_nothing_behind(
    writer: PostgresLedgerWriter, postgres: EmbeddedPostgres, organization_id: str
) -> None:
    moment = datetime.now(UTC) + timedelta(days=2 * limits.PARTITION_DAYS_AHEAD)
    with pytest.raises(DependencyUnavailable):
        await writer.append([event_at(moment, organization_id)], now=moment)
    (await stored_ledger(postgres.url, organization_id)).assert_holds(set())
