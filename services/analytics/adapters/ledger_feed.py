"""The usage ledger as a feed, read from metering's LedgerService."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing

import grpc

from kit.clock import from_unix_microseconds
from kit.feed import START, Head, Page, Position
from kit.grpc.convert import nanoseconds_from_pb, position_from_pb, position_to_pb
from kit.grpc.errors import refusal_from_call
from services.analytics.domain.calls import LedgerEntry, ProviderCall, taken_back
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc, metering_pb2

_DEPENDENCY = "metering"
_NANOS_PER_MICROSECOND = 1_000


class LedgerFeed:
    """kit.feed.Feed over the ledger, by organization."""

    def __init__(self, metering: grpc.aio.Channel) -> None:
        self._stub = ledger_pb2_grpc.LedgerServiceStub(metering)

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As Feed. Raises DependencyUnavailable when the connection breaks."""
        try:
            async for response in self._stub.WatchHeads(ledger_pb2.WatchHeadsRequest()):
                yield [Head(head.organization_id, position_from_pb(head.position)) for head in response.heads]
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, _DEPENDENCY) from error

    async def read(self, key: str, after: Position) -> AsyncGenerator[Page[LedgerEntry], None]:
        """As Feed. Raises DependencyUnavailable when the connection breaks, LogRewound and OutOfRetention."""
        request = ledger_pb2.ReadLedgerRequest(
            organization_id=key,
            after=position_to_pb(after),
        )
        try:
            async for response in self._stub.ReadLedger(request):
                entries = tuple(_entry_from_pb(event) for event in response.events)
                yield Page(entries, position_from_pb(response.position))
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, _DEPENDENCY) from error

    async def require_first_entries(self, organization_id: str) -> None:
        """As WholeLedger."""
        async with aclosing(self.read(organization_id, START)) as pages:
            await anext(pages, None)

    async def confirm(self, positions: Mapping[str, Position]) -> None:
        """Tells metering that entries up to these positions, by organization, are needed no longer. Raises
        DependencyUnavailable.
        """
        request = ledger_pb2.ConfirmPositionsRequest(
            positions=[
                ledger_pb2.ConfirmedPosition(organization_id=key, position=position_to_pb(position))
                for key, position in positions.items()
            ]
        )
        try:
            await self._stub.ConfirmPositions(request)
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, _DEPENDENCY) from error


def _entry_from_pb(message: ledger_pb2.LedgerEvent) -> LedgerEntry:
    is_reversal = message.HasField("reversed")
    event = message.reversed if is_reversal else message.event
    if not event.HasField("provider_call"):
        return LedgerEntry(message.sequence, None)
    call = _call_from_pb(event)
    return LedgerEntry(message.sequence, taken_back(call) if is_reversal else call)


def _call_from_pb(event: metering_pb2.UsageEvent) -> ProviderCall:
    call, subject = event.provider_call, event.subject
    return ProviderCall(
        # Cut and not rounded: a call just before midnight stays before it.
        event_time=from_unix_microseconds(nanoseconds_from_pb(event.event_time) // _NANOS_PER_MICROSECOND),
        provider=call.provider,
        model=call.model,
        project_id=subject.project_id,
        team_id=subject.team_id,
        user_id=subject.user_id,
        agent_id=subject.agent_id,
        task_id=subject.task_id,
        tokens_input_uncached=call.tokens_input_uncached,
        tokens_cache_read=call.tokens_cache_read,
        tokens_cache_write=call.tokens_cache_write,
        tokens_output=call.tokens_output,
        tokens_reasoning=call.tokens_reasoning,
    )
