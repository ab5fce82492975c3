"""Metering as its bootstrap puts it together, on a real Postgres where some statements hang."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

import grpc
import psycopg
import pytest

from kit.grpc.server import Application
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.servers import serving
from services.metering.bootstrap import bootstrap
from services.metering.config import MeteringSettings
from tests.conftest import RoleUrls
from tests.metering_process import ADMIN, FOLLOWER, FOLLOWER_KEY, serving_accounts, usage_event
from tollbook.metering.v1 import (
    ledger_pb2,
    ledger_pb2_grpc,
    metering_pb2,
    metering_pb2_grpc,
    task_time_pb2,
    task_time_pb2_grpc,
)

# More than any pool has connections.
HANGING = 20


@dataclass(frozen=True, kw_only=True)
class Scene:
    application: Application
    channel: grpc.aio.Channel
    owner: psycopg.AsyncConnection[tuple[object, ...]]
    """Its locks make statements hang; they are let go when the test ends."""
    organization_id: str

    async def record(self) -> metering_pb2.EventStatus.ValueType:
        stub: metering_pb2_grpc.MeteringServiceAsyncStub = metering_pb2_grpc.MeteringServiceStub(self.channel)
        request = metering_pb2.RecordUsageRequest(events=[usage_event(uuid4().hex, self.organization_id)])
        return (await stub.RecordUsage(request, metadata=ADMIN)).results[0].status

    async def read_ledger(self) -> int:
        stub: ledger_pb2_grpc.LedgerServiceAsyncStub = ledger_pb2_grpc.LedgerServiceStub(self.channel)
        request = ledger_pb2.ReadLedgerRequest(organization_id=self.organization_id)
        return sum([len(page.events) async for page in stub.ReadLedger(request, metadata=FOLLOWER)])

    async def assert_serves(self) -> None:
        """Readiness, recording and the feed are as ever."""
        for check in self.application.ready:
            await check()
        assert await self.record() == metering_pb2.EVENT_STATUS_ACCEPTED
        assert await self.read_ledger() >= 1

    async def hang_on(self, statement: str) -> None:
        await self.owner.execute(statement.encode())

    async def until_hanging(self, count: int) -> None:
        while True:
            found = await self.owner.execute(b"SELECT count(*) FROM pg_locks WHERE NOT granted")
            row = await found.fetchone()
            assert row is not None
            if isinstance(row[0], int) and row[0] >= count:
                return
            await asyncio.sleep(0.02)


@pytest.fixture
async def scene(postgres: EmbeddedPostgres, migrated: Callable[[str], RoleUrls]) -> AsyncIterator[Scene]:
    urls = migrated("metering")
    async with (
        serving_accounts() as accounts_address,
        AsyncExitStack() as resources,
        await psycopg.AsyncConnection.connect(postgres.url) as owner,
    ):
        settings = MeteringSettings(
            listen_address="127.0.0.1:0",
            metrics_address="127.0.0.1:0",
            service_key="tb_service_" + "m" * 32,
            service_key_hashes={"quota": hashlib.sha256(FOLLOWER_KEY.encode()).hexdigest()},
            accounts_address=accounts_address,
            postgres_tenant_url=urls["tenant"],
            postgres_writer_url=urls["writer"],
            postgres_fleet_url=urls["fleet"],
        )
        application = await bootstrap(settings, resources)
        await application.prepare()
        async with serving(application) as channel:
            yield Scene(application=application, channel=channel, owner=owner, organization_id=f"org-{uuid4().hex}")
            await owner.rollback()


async def test_queries_that_hang_hold_up_neither_recording_nor_the_feed_nor_readiness(scene: Scene) -> None:
    await scene.record()
    stub: metering_pb2_grpc.MeteringServiceAsyncStub = metering_pb2_grpc.MeteringServiceStub(scene.channel)
    await scene.hang_on("LOCK TABLE metering.rollup_positions IN ACCESS EXCLUSIVE MODE")
    request = metering_pb2.QueryUsageRequest(organization_id=scene.organization_id)
    queries = [stub.QueryUsage(request, metadata=ADMIN) for _ in range(HANGING)]
    await scene.until_hanging(1)
    await scene.assert_serves()
    for query in queries:
        query.cancel()


async def test_reports_of_tasks_that_hang_hold_up_neither_recording_nor_the_feed_nor_readiness(scene: Scene) -> None:
    await scene.record()
    stub: task_time_pb2_grpc.TaskTimeServiceAsyncStub = task_time_pb2_grpc.TaskTimeServiceStub(scene.channel)
    await scene.hang_on("LOCK TABLE metering.task_times IN ACCESS EXCLUSIVE MODE")
    report = task_time_pb2.ReportTaskTimeRequest(
        subject=metering_pb2.Subject(organization_id=scene.organization_id, task_id="task"),
        phase=task_time_pb2.TASK_PHASE_HEARTBEAT,
    )
    report.report_time.GetCurrentTime()
    reports = [stub.ReportTaskTime(report, metadata=ADMIN) for _ in range(HANGING)]
    await scene.until_hanging(1)
    await scene.assert_serves()
    for each in reports:
        each.cancel()
