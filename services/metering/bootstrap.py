"""Puts metering together: the only file that names concrete adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from kit.clock import SystemClock
from kit.feed import Follower
from kit.grpc.client import connect
from kit.grpc.identity import Authenticator, RemoteKeyDirectory, RemoteOrganizations
from kit.grpc.server import Application
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from services.metering.adapters.parquet_archive import ParquetArchive
from services.metering.adapters.postgres_confirmations import PostgresConfirmations
from services.metering.adapters.postgres_ledger import (
    PostgresLedgerHeads,
    PostgresLedgerReader,
    PostgresLedgerWriter,
)
from services.metering.adapters.postgres_meters import PostgresMeterCatalog
from services.metering.adapters.postgres_old_weeks import PostgresOldWeeks
from services.metering.adapters.postgres_rollups import LedgerSpans, PostgresRollups
from services.metering.adapters.postgres_task_times import PostgresTaskTimes
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.application.commit_batches import CommitBatches
from services.metering.application.confirm_positions import ConfirmPositions
from services.metering.application.counted_ledger import CountedLedger
from services.metering.application.create_meter import CreateMeter
from services.metering.application.list_usage_events import ListUsageEvents
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_mapped_usage import RecordMappedUsage
from services.metering.application.record_usage import RecordUsage
from services.metering.application.report_task_time import ReportTaskTime
from services.metering.application.retire_weeks import RetireWeeks
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
from services.metering.workers.retention import keep_retiring

QUERY_CONNECTIONS = 6
ROLLUP_CONNECTIONS = 2
TASK_TIME_CONNECTIONS = 2
RETIRING_CONNECTIONS = 2


async def bootstrap(settings: MeteringSettings, resources: AsyncExitStack) -> Application:
    """The service, with everything it opened handed to `resources`."""
    tenant = Database(settings.postgres_tenant_url)
    writer = Database(settings.postgres_writer_url)
    fleet = Database(settings.postgres_fleet_url)
    # Connections of their own: neither long queries, nor reports of tasks, nor rolling up a long span keep a batch
    # or a follower waiting for one. Readiness does not ask for one of these: they may all be taken.
    queries = Database(settings.postgres_tenant_url, pool_size=QUERY_CONNECTIONS)
    rolling_up = Database(settings.postgres_writer_url, pool_size=ROLLUP_CONNECTIONS)
    task_times = Database(settings.postgres_writer_url, pool_size=TASK_TIME_CONNECTIONS)
    retiring = Database(settings.postgres_writer_url, pool_size=1)
    retiring_fleet = Database(settings.postgres_fleet_url, pool_size=RETIRING_CONNECTIONS)
    for database in (tenant, writer, fleet, queries, rolling_up, task_times, retiring, retiring_fleet):
        resources.push_async_callback(database.close)
    accounts = await resources.enter_async_context(connect(settings.accounts_address, settings.service_key))

    heads = PostgresLedgerHeads(fleet)
    meters = PostgresMeterCatalog(tenant, writer)
    organizations = RemoteOrganizations(accounts)
    batches = CommitBatches(
        CountedLedger(PostgresLedgerWriter(writer)), kind="events", transactions=settings.commit_transactions
    )
    resources.push_async_callback(batches.close)
    reports = CommitBatches(
        PostgresTaskTimes(task_times),
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
        list_usage_events=ListUsageEvents(PostgresLedgerReader(queries)),
        query_usage=QueryUsage(PostgresUsageReader(queries), meters),
        create_meter=CreateMeter(meters),
        meters=meters,
        streams=streams,
        exists=organizations.exists,
    )
    watch = HeadWatch(heads.heads)
    ledger = LedgerServicer(
        heads=watch,
        reader=PostgresLedgerReader(tenant),
        confirm_positions=ConfirmPositions(PostgresConfirmations(writer), SystemClock()),
    )
    retire_weeks = RetireWeeks(
        PostgresOldWeeks(retiring_fleet, retiring, heads),
        None if settings.archive_dir is None else ParquetArchive(settings.archive_dir),
        SystemClock(),
        retention=timedelta(days=settings.retention_days),
        followers=settings.retention_followers,
    )
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
        LedgerSpans(rolling_up, watch),
        PostgresRollups(rolling_up),
        parallel_keys=ROLLUP_CONNECTIONS,
    )

    async def prepare() -> None:
        for database in (tenant, writer, fleet):
            await database.assert_safe_role()
        await heads.make_partitions()

    return Application(
        authenticator=Authenticator(RemoteKeyDirectory(accounts), settings.service_key_hashes),
        servicers=[metering, ledger, cloudevents, task_time, *otlp],
        foreign_scopes=FOREIGN_SCOPES,
        workers={
            "partitions": partial(keep_partitions, heads),
            "rollups": rollups.run,
            "retention": partial(keep_retiring, retire_weeks),
        },
        prepare=prepare,
        ready=[tenant.ping, writer.ping, fleet.ping, heads.require_partitions],
        drain=streams.drain,
    )
