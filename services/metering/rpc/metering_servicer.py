"""MeteringService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import grpc

from kit.errors import InvalidField, NotFound
from kit.grpc.call import OrganizationExists, organization_of
from kit.grpc.context import ServicerContext
from services.metering.application.create_meter import CreateMeter
from services.metering.application.list_usage_events import ListUsageEvents
from services.metering.application.ports import MeterCatalog
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_usage import RecordUsage, refuse_batch_of
from services.metering.domain.grouping import filters_from_texts, group_by_from_texts
from services.metering.domain.limits import NAME_BYTES_MAX
from services.metering.domain.meters import MeterRequest
from services.metering.rpc.admission import admit
from services.metering.rpc.convert import after_from_page_token, listed_to_pb, outcome_to_pb
from services.metering.rpc.convert_usage import (
    answer_to_pb,
    interval_from_pb,
    meter_from_pb,
    meter_to_pb,
    window_size_from_pb,
)
from services.metering.rpc.usage_streams import UsageStreams
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc


class MeteringServicer(metering_pb2_grpc.MeteringServiceServicer):
    """Records and totals usage."""

    service_name: ClassVar[str] = "tollbook.metering.v1.MeteringService"

    def __init__(
        self,
        *,
        record_usage: RecordUsage,
        list_usage_events: ListUsageEvents,
        query_usage: QueryUsage,
        create_meter: CreateMeter,
        meters: MeterCatalog,
        streams: UsageStreams,
        exists: OrganizationExists,
    ) -> None:
        self._record_usage = record_usage
        self._streams = streams
        self._list_usage_events = list_usage_events
        self._query_usage = query_usage
        self._create_meter = create_meter
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
        admitted = await admit(request.events, is_backfill=request.backfill, exists=self._exists)
        outcomes = await self._record_usage(admitted.events) if admitted.events else []
        results = [outcome_to_pb(index, outcome) for index, outcome in enumerate(admitted.outcomes(outcomes))]
        return metering_pb2.RecordUsageResponse(results=results)

    async def StreamUsage(
        self, request_iterator: AsyncIterator[metering_pb2.StreamUsageRequest], context: ServicerContext
    ) -> AsyncIterator[metering_pb2.StreamUsageResponse]:
        """See the proto."""
        async for response in self._streams.answer(request_iterator):
            yield response

    async def ListUsageEvents(
        self, request: metering_pb2.ListUsageEventsRequest, context: ServicerContext
    ) -> metering_pb2.ListUsageEventsResponse:
        """See the proto."""
        interval = interval_from_pb(request)
        listed = await self._list_usage_events(
            await organization_of(request.organization_id, exists=self._exists),
            interval,
            after_sequence=after_from_page_token(request.page_token, interval),
            page_size=request.page_size,
        )
        return listed_to_pb(listed, interval)

    async def QueryUsage(
        self, request: metering_pb2.QueryUsageRequest, context: ServicerContext
    ) -> metering_pb2.QueryUsageResponse:
        """See the proto."""
        if request.as_of_sequence < 0:
            raise InvalidField(field="as_of_sequence", problem="negative")
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        group_by = group_by_from_texts(request.group_by)
        window = window_size_from_pb(request.window)
        answer = await self._query_usage(
            organization_id,
            interval_from_pb(request),
            meters=request.meters,
            group_by=group_by,
            filters=filters_from_texts([(each.dimension, each.values) for each in request.filters]),
            window=window,
            time_zone=request.time_zone,
            as_of_sequence=request.as_of_sequence,
        )
        return answer_to_pb(answer, group_by, windowed=window is not None)

    async def CreateMeter(
        self, request: metering_pb2.CreateMeterRequest, context: ServicerContext
    ) -> metering_pb2.CreateMeterResponse:
        """See the proto."""
        meter = await self._create_meter(MeterRequest(request.request_id, meter_from_pb(request.meter)))
        return metering_pb2.CreateMeterResponse(meter=meter_to_pb(meter))

    async def GetMeter(
        self, request: metering_pb2.GetMeterRequest, context: ServicerContext
    ) -> metering_pb2.GetMeterResponse:
        """See the proto."""
        meter = (await self._meters.meters()).get(request.name)
        if meter is None:
            raise NotFound(what="meter", name=request.name[:NAME_BYTES_MAX])
        return metering_pb2.GetMeterResponse(meter=meter_to_pb(meter))

    async def ListMeters(
        self, request: metering_pb2.ListMetersRequest, context: ServicerContext
    ) -> metering_pb2.ListMetersResponse:
        """See the proto."""
        meters = await self._meters.meters()
        return metering_pb2.ListMetersResponse(meters=[meter_to_pb(meters[name]) for name in sorted(meters)])
