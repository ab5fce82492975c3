"""Puts metering together: the only file that names concrete adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from kit.clock import SystemClock
from kit.grpc.client import connect
from kit.grpc.identity import Authenticator, RemoteKeyDirectory, RemoteOrganizations
from kit.grpc.server import Application
from kit.postgres.database import Database
from services.metering.adapters.postgres_ledger import (
    PostgresLedgerHeads,
    PostgresLedgerReader,
    PostgresLedgerWriter,
    PostgresMeterCatalog,
)
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_usage import RecordUsage
from services.metering.config import MeteringSettings
from services.metering.rpc.ledger_servicer import LedgerServicer
from services.metering.rpc.metering_servicer import MeteringServicer
from services.metering.workers.partitions import keep_partitions


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
    for database in databases.values():
        resources.push_async_callback(database.close)
    accounts = await resources.enter_async_context(connect(settings.accounts_address, settings.service_key))

    reader = PostgresLedgerReader(databases["tenant"])
    heads = PostgresLedgerHeads(databases["fleet"])
    meters = PostgresMeterCatalog(databases["tenant"])
    metering = MeteringServicer(
        record_usage=RecordUsage(PostgresLedgerWriter(databases["writer"]), meters, SystemClock()),
        query_usage=QueryUsage(reader, meters),
        meters=meters,
        exists=RemoteOrganizations(accounts).exists,
    )
    ledger = LedgerServicer(heads=heads, reader=reader)

    async def prepare() -> None:
        for database in databases.values():
            await database.assert_safe_role()
        await heads.make_partitions()

    return Application(
        authenticator=Authenticator(RemoteKeyDirectory(accounts), settings.service_key_hashes),
        servicers=[metering, ledger],
        workers={"partitions": partial(keep_partitions, heads)},
        prepare=prepare,
        ready=[*(database.ping for database in databases.values()), heads.require_partitions],
    )
