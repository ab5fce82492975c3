"""LedgerService: the feed of the ledger, for the other services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import ClassVar

import grpc

from kit.errors import InvalidField
from kit.feed import Position
from kit.grpc.call import current_principal, organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import head_to_pb, moment_from_pb, position_to_pb
from kit.head_watch import HeadWatch
from services.metering.application.confirm_positions import ConfirmPositions
from services.metering.application.ports import Interval, LedgerReader
from services.metering.domain.members import levels_from_texts
from services.metering.rpc.convert import add_members_to_pb, confirmation_from_pb, page_to_pb, rows_to_pb
from services.metering.rpc.handing_over import HandingOver
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Hands the ledger over."""

    service_name: ClassVar[str] = "tollbook.metering.v1.LedgerService"

    def __init__(self, *, heads: HeadWatch, reader: LedgerReader, confirm_positions: ConfirmPositions) -> None:
        self._heads = heads
        self._reader = reader
        self._confirm_positions = confirm_positions
        self._handing_over = HandingOver()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(self, server)

    async def WatchHeads(
        self, request: ledger_pb2.WatchHeadsRequest, context: ServicerContext
    ) -> AsyncIterator[ledger_pb2.WatchHeadsResponse]:
        """See the proto."""
        follower = current_principal().name
        with self._handing_over.watch(follower):
            async with aclosing(self._heads.watch()) as watch:
                async for heads in watch:
                    self._handing_over.told(follower, heads)
                    yield ledger_pb2.WatchHeadsResponse(heads=map(head_to_pb, heads))

    async def ReadLedger(
        self, request: ledger_pb2.ReadLedgerRequest, context: ServicerContext
    ) -> AsyncIterator[ledger_pb2.ReadLedgerResponse]:
        """See the proto."""
        organization_id = await organization_of(request.organization_id)
        if request.after.sequence < 0:
            raise InvalidField(field="after.sequence", problem="negative")
        after = Position(request.after.sequence, request.after.commit_id)
        follower = current_principal().name
        self._handing_over.handed(follower, organization_id, after)
        async for page in self._reader.read(organization_id, after):
            yield page_to_pb(page)
            self._handing_over.handed(follower, organization_id, page.position)

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

    async def ConfirmPositions(
        self, request: ledger_pb2.ConfirmPositionsRequest, context: ServicerContext
    ) -> ledger_pb2.ConfirmPositionsResponse:
        """See the proto."""
        # Only services get here; each speaks for itself.
        confirmations = [
            confirmation_from_pb(each, await organization_of(each.organization_id)) for each in request.positions
        ]
        kept_count = await self._confirm_positions(current_principal().name, confirmations)
        return ledger_pb2.ConfirmPositionsResponse(kept_count=kept_count)
