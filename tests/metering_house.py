"""Metering's servicer over its shipped fakes, put together once for every test that needs one."""

from __future__ import annotations

from kit.clock import SystemClock
from kit.grpc.call import OrganizationExists
from kit.head_watch import POLL_SECONDS, HeadWatch
from services.metering.adapters.memory import MemoryLedger, MemoryMeterCatalog
from services.metering.adapters.memory_retention import MemoryRetention
from services.metering.adapters.memory_usage import MemoryUsageReader
from services.metering.application.commit_batches import CommitBatches, UsageBatches
from services.metering.application.confirm_positions import ConfirmPositions
from services.metering.application.create_meter import CreateMeter
from services.metering.application.list_usage_events import ListUsageEvents
from services.metering.application.ports import Confirmations
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_usage import RecordUsage
from services.metering.application.stream_usage import StreamUsage
from services.metering.rpc.ledger_servicer import LedgerServicer
from services.metering.rpc.metering_servicer import MeteringServicer
from services.metering.rpc.usage_streams import UsageStreams


async def every_organization(_: str) -> bool:
    return True


def metering_servicer(
    ledger: MemoryLedger,
    catalog: MemoryMeterCatalog,
    *,
    exists: OrganizationExists = every_organization,
    batches: UsageBatches | None = None,
    streams: UsageStreams | None = None,
) -> MeteringServicer:
    clock = SystemClock()
    return MeteringServicer(
        record_usage=RecordUsage(batches or ledger, catalog, clock),
        list_usage_events=ListUsageEvents(ledger),
        query_usage=QueryUsage(MemoryUsageReader(ledger), catalog),
        create_meter=CreateMeter(catalog),
        meters=catalog,
        streams=streams
        or UsageStreams(
            StreamUsage(batches or CommitBatches(ledger, kind="events", transactions=1), catalog, clock), exists
        ),
        exists=exists,
    )


def ledger_servicer(
    ledger: MemoryLedger,
    *,
    look_every_seconds: float = POLL_SECONDS,
    confirmations: Confirmations | None = None,
) -> LedgerServicer:
    return LedgerServicer(
        heads=HeadWatch(ledger.heads, every_seconds=look_every_seconds),
        reader=ledger,
        confirm_positions=ConfirmPositions(confirmations or MemoryRetention(ledger), SystemClock()),
    )
