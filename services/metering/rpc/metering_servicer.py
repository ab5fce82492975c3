"""MeteringService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.errors import InvalidField, OrganizationRequired
from kit.grpc.call import CallerKind, OrganizationExists, current_principal, organization_of
from kit.grpc.context import ServicerContext
from services.metering.application.ports import Interval, MeterCatalog
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_usage import RecordUsage
from services.metering.domain.acceptance import Outcome, Status
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
        organizations: dict[str, str] = {}
        for message in request.events:
            named = message.subject.organization_id
            if named not in organizations:
                organizations[named] = await self._organization(named)
        events = [event_from_pb(message, organizations[message.subject.organization_id]) for message in request.events]
        caller = current_principal()
        spoofed = {
            index
            for index, event in enumerate(events)
            if event.source in _RESERVED_SOURCES
            and (caller.kind is not CallerKind.SERVICE or caller.name != event.source)
        }
        if spoofed and len(spoofed) == len(events):
            outcomes: list[Outcome] = []
        else:
            outcomes = await self._record_usage([event for index, event in enumerate(events) if index not in spoofed])
        remaining = iter(outcomes)
        results = [
            outcome_to_pb(index, _SPOOFED if index in spoofed else next(remaining)) for index in range(len(events))
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

    async def _organization(self, named: str) -> str:
        try:
            return await organization_of(named, exists=self._exists)
        except OrganizationRequired:
            return ""  # refused event by event: the others of the batch stand


_SPOOFED = Outcome(Status.REJECTED, refusal=Refusal("INVALID_FIELD", "source: reserved for a service of the suite"))
