"""MeteringService."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import grpc

from kit.errors import InvalidField, OrganizationNotFound, OrganizationRequired
from kit.grpc.call import CallerKind, OrganizationExists, current_principal, organization_of
from kit.grpc.context import ServicerContext
from services.metering.application.ports import Interval, MeterCatalog
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_usage import RecordUsage, refuse_batch_of
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.refusals import Refusal
from services.metering.rpc.convert import (
    event_from_pb,
    meter_to_pb,
    moment_from_pb,
    outcome_to_pb,
    rows_to_pb,
)
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

# Events that other services of the suite write; nobody else may speak in their name.
_RESERVED_SOURCES = frozenset({"analytics", "quota"})


class MeteringServicer(metering_pb2_grpc.MeteringServiceServicer):
    """Records and totals usage."""

    service_name: ClassVar[str] = "tollbook.metering.v1.MeteringService"

    def __init__(
        self,
        *,
        record_usage: RecordUsage,
        query_usage: QueryUsage,
        meters: MeterCatalog,
        exists: OrganizationExists,
    ) -> None:
        self._record_usage = record_usage
        self._query_usage = query_usage
        self._meters = meters
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        metering_pb2_grpc.add_MeteringServiceServicer_to_server(self, server)

    async def RecordUsage(
        self, request: metering_pb2.RecordUsageRequest, context: ServicerContext
    ) -> metering_pb2.RecordUsageResponse:
        """See the proto."""
        # Before anything is done for each event: converting a million of them would hold up every other call.
        refuse_batch_of(len(request.events))
        organizations = await self._organizations(request.events)
        refused: dict[int, Outcome] = {}
        events: list[UsageEvent] = []
        for index, message in enumerate(request.events):
            organization_id = organizations[message.subject.organization_id]
            if organization_id is None:
                refused[index] = _UNKNOWN_ORGANIZATION
            elif not _may_speak_as(message.source):
                refused[index] = _SPOOFED
            else:
                events.append(event_from_pb(message, organization_id))
        recorded = iter(await self._record_usage(events) if events else ())
        results = [
            outcome_to_pb(index, refused[index] if index in refused else next(recorded))
            for index in range(len(request.events))
        ]
        return metering_pb2.RecordUsageResponse(results=results)

    async def QueryUsage(
        self, request: metering_pb2.QueryUsageRequest, context: ServicerContext
    ) -> metering_pb2.QueryUsageResponse:
        """See the proto."""
        if request.as_of_sequence < 0:
            raise InvalidField(field="as_of_sequence", problem="negative")
        totals = await self._query_usage(
            await organization_of(request.organization_id, exists=self._exists),
            Interval(
                moment_from_pb(request.start_time, "start_time") if request.HasField("start_time") else None,
                moment_from_pb(request.end_time, "end_time") if request.HasField("end_time") else None,
            ),
            meters=frozenset(request.meters),
            as_of_sequence=request.as_of_sequence,
        )
        return metering_pb2.QueryUsageResponse(rows=rows_to_pb(totals), as_of_sequence=totals.position.sequence)

    async def ListMeters(
        self, request: metering_pb2.ListMetersRequest, context: ServicerContext
    ) -> metering_pb2.ListMetersResponse:
        """See the proto."""
        meters = await self._meters.meters()
        return metering_pb2.ListMetersResponse(meters=[meter_to_pb(meters[name]) for name in sorted(meters)])

    async def _organizations(self, events: Iterable[metering_pb2.UsageEvent]) -> dict[str, str | None]:
        """The organization that each one named in a batch stands for; None: there is no such organization.

        One that is malformed or missing stays as it is and is refused with its event. Raises OrganizationMismatch,
        and OrganizationNotFound when the batch has no other.
        """
        found: dict[str, str | None] = {}
        for named in {message.subject.organization_id for message in events}:
            try:
                found[named] = await organization_of(named, exists=self._exists)
            except (OrganizationRequired, InvalidField):
                found[named] = named
            except OrganizationNotFound:
                found[named] = None
        if set(found.values()) == {None}:
            raise OrganizationNotFound(organization_id=min(found))
        return found


def _may_speak_as(source: str) -> bool:
    caller = current_principal()
    return source not in _RESERVED_SOURCES or (caller.kind is CallerKind.SERVICE and caller.name == source)


_SPOOFED = Outcome(Status.REJECTED, refusal=Refusal("INVALID_FIELD", "source: reserved for a service of the suite"))
_UNKNOWN_ORGANIZATION = Outcome(
    Status.REJECTED, refusal=Refusal("ORGANIZATION_NOT_FOUND", "subject.organization_id: there is no such organization")
)
