"""LedgerService: the feed of the ledger, for the other services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import grpc

from kit.errors import InvalidField
from kit.feed import Position, watch_by_polling
from kit.grpc.call import organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import moment_from_pb, position_to_pb
from services.metering.application.ports import Interval, LedgerHeads, LedgerReader
from services.metering.domain.members import levels_from_texts
from services.metering.rpc.convert import add_members_to_pb, page_to_pb, rows_to_pb
from tollbook.feed.v1 import feed_pb2
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Hands the ledger over."""

    service_name: ClassVar[str] = "tollbook.metering.v1.LedgerService"

    def __init__(self, *, heads: LedgerHeads, reader: LedgerReader) -> None:
        self._heads = heads
        self._reader = reader

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(self, server)

    async def WatchHeads(
        self, request: ledger_pb2.WatchHeadsRequest, context: ServicerContext
    ) -> AsyncIterator[ledger_pb2.WatchHeadsResponse]:
        """See the proto."""
        async for heads in watch_by_polling(self._heads.heads):
            yield ledger_pb2.WatchHeadsResponse(
                heads=[
                    feed_pb2.Head(organization_id=head.key, position=position_to_pb(head.position)) for head in heads
                ]
            )

    async def ReadLedger(
        self, request: ledger_pb2.ReadLedgerRequest, context: ServicerContext
    ) -> AsyncIterator[ledger_pb2.ReadLedgerResponse]:
        """See the proto."""
        organization_id = await organization_of(request.organization_id)
        if request.after.sequence < 0:
            raise InvalidField(field="after.sequence", problem="negative")
        after = Position(request.after.sequence, request.after.commit_id)
        async for page in self._reader.read(organization_id, after):
            yield page_to_pb(page)

    async def SnapshotUsage(
        self, request: ledger_pb2.SnapshotUsageRequest, context: ServicerContext
    ) -> ledger_pb2.SnapshotUsageResponse:
        """See the proto."""
        for field in ("start_time", "end_time"):
            if not request.HasField(field):
                raise InvalidField(field=field, problem="required")
        if request.as_of_sequence < 0:
            raise InvalidField(field="as_of_sequence", problem="negative")
        totals = await self._reader.totals(
            await organization_of(request.organization_id),
            Interval(moment_from_pb(request.start_time, "start_time"), moment_from_pb(request.end_time, "end_time")),
            as_of_sequence=request.as_of_sequence or None,
            levels=levels_from_texts([(each.level, each.meters) for each in request.scoped]),
        )
        response = ledger_pb2.SnapshotUsageResponse(position=position_to_pb(totals.position), rows=rows_to_pb(totals))
        add_members_to_pb(totals.members, response)
        return response
