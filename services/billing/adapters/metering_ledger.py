"""The ledgers' heads, and which of their events are invoiced, at the metering service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import grpc

from kit.grpc.convert import moment_to_pb
from kit.grpc.errors import refusal_from_call
from services.billing.application.ports.usage import LedgerHead
from services.billing.domain.closing import InvoicedUsage
from tollbook.feed.v1 import feed_pb2
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc


class MeteringLedger:
    """InvoicedLedger over metering."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ledger_pb2_grpc.LedgerServiceStub(channel)

    async def watch(self) -> AsyncIterator[Sequence[LedgerHead]]:
        """As InvoicedLedger."""
        try:
            async for response in self._stub.WatchHeads(ledger_pb2.WatchHeadsRequest()):
                yield [LedgerHead(head.organization_id, head.position.sequence) for head in response.heads]
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, "metering") from error

    async def confirm(self, invoiced: Mapping[str, InvoicedUsage]) -> None:
        """As InvoicedLedger."""
        request = ledger_pb2.ConfirmPositionsRequest(
            positions=[
                ledger_pb2.ConfirmedPosition(
                    organization_id=organization_id,
                    position=feed_pb2.Position(sequence=each.sequence),
                    needed_from_time=moment_to_pb(each.before),
                )
                for organization_id, each in invoiced.items()
            ]
        )
        try:
            await self._stub.ConfirmPositions(request)
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, "metering") from error
