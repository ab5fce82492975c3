"""Metering, over gRPC: the ledger that counters follow, and the catalog of meters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

import grpc
import structlog

from kit.errors import Refused
from kit.feed import START, Head, Page, Position
from kit.grpc.convert import position_from_pb, position_to_pb, unix_to_pb
from kit.grpc.errors import refusal_from_call
from services.quota.application.ports import Snapshot
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import ORGANIZATION, Counter, LevelMeter, Scope, ScopeKind
from services.quota.domain.usage import UsageEntry
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc, metering_pb2, metering_pb2_grpc

log = structlog.get_logger()

METERS_BELIEVED_SECONDS = 5.0

# Any moment: an empty interval has no totals, and asking for them tells the head.
_ANY_PERIOD = Period(0, 0)


class RemoteLedger:
    """Ledger at the metering service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ledger_pb2_grpc.LedgerServiceStub(channel)

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As kit.feed.Feed."""
        call = self._stub.WatchHeads(ledger_pb2.WatchHeadsRequest())
        with _answering(call):
            async for response in call:
                yield [Head(head.organization_id, position_from_pb(head.position)) for head in response.heads]

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[UsageEntry]]:
        """As kit.feed.Feed."""
        request = ledger_pb2.ReadLedgerRequest(organization_id=key, after=position_to_pb(after))
        call = self._stub.ReadLedger(request)
        with _answering(call):
            async for response in call:
                entries = tuple(_entry_from_pb(event) for event in response.events)
                yield Page(entries, position_from_pb(response.position))

    async def snapshot(
        self,
        organization_id: str,
        period: Period,
        tracked: Collection[LevelMeter] = (),
        *,
        as_of_sequence: int | None = None,
    ) -> Snapshot:
        if as_of_sequence == 0:
            # Nothing was used before the first entry; and a ledger that is rewound still has its beginning.
            return Snapshot({}, START)
        request = ledger_pb2.SnapshotUsageRequest(
            organization_id=organization_id,
            start_time=unix_to_pb(period.start_us),
            end_time=unix_to_pb(period.end_us),
            as_of_sequence=as_of_sequence or 0,
        )
        for level in {each.level for each in tracked}:
            meters = sorted(each.meter for each in tracked if each.level is level)
            request.scoped.add(level=level.value, meters=meters)
        with _answering():
            response = await self._stub.SnapshotUsage(request)
        used = {Counter(ORGANIZATION, row.meter): row.quantity for row in response.rows}
        for row in response.scoped_rows:
            used[Counter(Scope(ScopeKind(row.level), row.id), row.meter)] = row.quantity
        incomplete = [
            LevelMeter(ScopeKind(each.level), meter) for each in response.scoped_incomplete for meter in each.meters
        ]
        return Snapshot(used, position_from_pb(response.position), incomplete)

    async def head(self, organization_id: str) -> Position:
        return (await self.snapshot(organization_id, _ANY_PERIOD)).position


class RemoteMeters:
    """MeterCatalog at the metering service; asks in the background and keeps the last answer while metering is down."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = metering_pb2_grpc.MeteringServiceStub(channel)
        self._names: frozenset[str] | None = None
        self._measured: frozenset[str] = frozenset()
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def measured(self, names: Collection[str]) -> Collection[str]:
        await self.unknown(names)
        return [name for name in names if name in self._measured]

    def are_known(self, names: Collection[str]) -> bool:
        is_young = monotonic() - self._asked_at <= METERS_BELIEVED_SECONDS
        return is_young and self._names is not None and self._names.issuperset(names)

    async def unknown(self, names: Collection[str]) -> Collection[str]:
        # No check waits for a list that is merely old: only a name that it lacks may be a new meter.
        if monotonic() - self._asked_at > METERS_BELIEVED_SECONDS and self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None and (self._names is None or not self._names.issuperset(names)):
            await asyncio.shield(self._asking)
        known = self._names or frozenset()
        return [name for name in names if name not in known]

    async def _ask(self) -> None:
        asked_at = monotonic()
        try:
            with _answering():
                answer = await self._stub.ListMeters(metering_pb2.ListMetersRequest())
        except Refused as error:
            log.warning("meters_not_renewed", error=str(error))
            if self._names is None:
                raise
        else:
            self._names = frozenset(meter.name for meter in answer.meters)
            self._measured = frozenset(meter.name for meter in answer.meters if _is_measured(meter))
        finally:
            self._asking = None
            if self._names is not None:
                self._asked_at = asked_at


def _entry_from_pb(message: ledger_pb2.LedgerEvent) -> UsageEntry:
    event = message.event
    if message.HasField("reversed"):
        # Usage of the reversed event's time, taken back. What that event drew from a reservation stays drawn: the hold
        # was for work that was done, and who still needs one asks for it.
        taken_back = message.reversed
        return UsageEntry(
            sequence=message.sequence,
            event_time_us=taken_back.event_time.ToMicroseconds(),
            quantities=tuple((each.meter, -each.quantity) for each in taken_back.measurements),
            scopes=_scopes_from_pb(taken_back.subject),
        )
    return UsageEntry(
        sequence=message.sequence,
        event_time_us=event.event_time.ToMicroseconds(),
        quantities=tuple((each.meter, each.quantity) for each in event.measurements),
        reservation_id=event.reservation_id,
        reservation_final=event.reservation_final,
        scopes=_scopes_from_pb(event.subject),
    )


def _scopes_from_pb(subject: metering_pb2.Subject) -> tuple[Scope, ...]:
    named = (
        (ScopeKind.PROJECT, subject.project_id),
        (ScopeKind.TEAM, subject.team_id),
        (ScopeKind.USER, subject.user_id),
        (ScopeKind.AGENT, subject.agent_id),
        (ScopeKind.TASK, subject.task_id),
    )
    return (ORGANIZATION, *(Scope(kind, id_) for kind, id_ in named if id_))


def _is_measured(meter: metering_pb2.Meter) -> bool:
    return meter.value_source == metering_pb2.VALUE_SOURCE_MEASUREMENT


@contextmanager
def _answering(call: grpc.aio.Call | None = None) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise refusal_from_call(error, "metering") from error
    finally:
        if call is not None:
            call.cancel()
