"""Puts metering together: the only file that names concrete adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from kit.clock import SystemClock
from kit.feed import Follower
from kit.grpc.client import connect
from kit.grpc.identity import Authenticator, RemoteKeyDirectory, RemoteOrganizations
from kit.grpc.server import Application
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from services.metering.adapters.postgres_ledger import (
    PostgresLedgerHeads,
    PostgresLedgerReader,
    PostgresLedgerWriter,
)
from services.metering.adapters.postgres_meters import PostgresMeterCatalog
from services.metering.adapters.postgres_rollups import LedgerSpans, PostgresRollups
from services.metering.adapters.postgres_task_times import PostgresTaskTimes
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.application.commit_batches import CommitBatches
from services.metering.application.create_meter import CreateMeter
from services.metering.application.list_usage_events import ListUsageEvents
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_mapped_usage import RecordMappedUsage
from services.metering.application.record_usage import RecordUsage
from services.metering.application.report_task_time import ReportTaskTime
from services.metering.application.stream_usage import StreamUsage
from services.metering.config import MeteringSettings
from services.metering.domain import limits
from services.metering.domain.cloudevents import MeterMapping
from services.metering.rpc.cloudevents_servicer import CloudEventsServicer
from services.metering.rpc.ledger_servicer import LedgerServicer
from services.metering.rpc.metering_servicer import MeteringServicer
from services.metering.rpc.otlp_servicers import FOREIGN_SCOPES, OtlpLogsServicer, OtlpTraceServicer
from services.metering.rpc.task_time_servicer import TaskTimeServicer
from services.metering.rpc.usage_streams import UsageStreams
from services.metering.workers.partitions import keep_partitions

ROLLUP_CONNECTIONS = 2
TASK_TIME_CONNECTIONS = 2


async def bootstrap(settings: MeteringSettings, resources: AsyncExitStack) -> Application:
    """The service, with everything it opened handed to `resources`."""
    databases = {
        role: Database(url)
        for role, url in (
            ("tenant", settings.postgres_tenant_url),
            ("writer", settings.postgres_writer_url),
            ("fleet", settings.postgres_fleet_url),
        )
    }
    # Connections of their own: neither rolling up a long span nor reports keep a batch waiting for one.
    databases["rollups"] = Database(settings.postgres_writer_url, pool_size=ROLLUP_CONNECTIONS)
    databases["task_times"] = Database(settings.postgres_writer_url, pool_size=TASK_TIME_CONNECTIONS)
    for database in databases.values():
        resources.push_async_callback(database.close)
    accounts = await resources.enter_async_context(connect(settings.accounts_address, settings.service_key))

    reader = PostgresLedgerReader(databases["tenant"])
    heads = PostgresLedgerHeads(databases["fleet"])
    meters = PostgresMeterCatalog(databases["tenant"], databases["writer"])
    organizations = RemoteOrganizations(accounts)
    batches = CommitBatches(
        PostgresLedgerWriter(databases["writer"]), kind="events", transactions=settings.commit_transactions
    )
    resources.push_async_callback(batches.close)
    reports = CommitBatches(
        PostgresTaskTimes(databases["task_times"]),
        kind="task_reports",
        transactions=TASK_TIME_CONNECTIONS,
        gather_seconds=limits.TASK_GATHER_SECONDS,
    )
    resources.push_async_callback(reports.close)
    stream_usage = StreamUsage(batches, meters, SystemClock(), label_keys=settings.label_keys)
    streams = UsageStreams(stream_usage, organizations.exists)
    record_usage = RecordUsage(batches, meters, SystemClock(), label_keys=settings.label_keys)
    metering = MeteringServicer(
        record_usage=record_usage,
        list_usage_events=ListUsageEvents(reader),
        query_usage=QueryUsage(PostgresUsageReader(databases["tenant"]), meters),
        create_meter=CreateMeter(meters),
        meters=meters,
        streams=streams,
        exists=organizations.exists,
    )
    watch = HeadWatch(heads.heads)
    ledger = LedgerServicer(heads=watch, reader=reader)
    record_mapped_usage = RecordMappedUsage(record_usage)
    cloudevents = CloudEventsServicer(
        record_usage=record_mapped_usage,
        mappings={name: MeterMapping(each.meter, each.value) for name, each in settings.cloudevent_meters.items()},
        exists=organizations.exists,
    )
    task_time = TaskTimeServicer(
        report_task_time=ReportTaskTime(reports, SystemClock()),
        exists=organizations.exists,
    )
    otlp = (OtlpTraceServicer(record_mapped_usage), OtlpLogsServicer(record_mapped_usage))

    rollups = Follower(
        "rollups",
        LedgerSpans(databases["rollups"], watch),
        PostgresRollups(databases["rollups"]),
        parallel_keys=ROLLUP_CONNECTIONS,
    )

    async def prepare() -> None:
        for database in databases.values():
            await database.assert_safe_role()
        await heads.make_partitions()

    return Application(
        authenticator=Authenticator(RemoteKeyDirectory(accounts), settings.service_key_hashes),
        servicers=[metering, ledger, cloudevents, task_time, *otlp],
        foreign_scopes=FOREIGN_SCOPES,
        workers={"partitions": partial(keep_partitions, heads), "rollups": rollups.run},
        prepare=prepare,
        ready=[*(database.ping for database in databases.values()), heads.require_partitions],
        drain=streams.drain,
    )
