"""CloudEventsService: usage that arrives as CloudEvents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import grpc

from kit.grpc.call import OrganizationExists
from kit.grpc.context import ServicerContext
from services.metering.application.record_mapped_usage import RecordMappedUsage
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.cloudevents import MeterMapping, events_of
from services.metering.domain.refusals import Refusal
from services.metering.rpc.admission import admit
from services.metering.rpc.convert import outcome_to_pb
from services.metering.rpc.convert_cloudevents import http_message_from_pb, usage_event_to_pb
from services.metering.rpc.large_messages import LargeMessages
from tollbook.metering.v1 import cloudevents_pb2, cloudevents_pb2_grpc, metering_pb2


class CloudEventsServicer(cloudevents_pb2_grpc.CloudEventsServiceServicer):
    """Records CloudEvents."""

    service_name: ClassVar[str] = "tollbook.metering.v1.CloudEventsService"

    def __init__(
        self, *, record_usage: RecordMappedUsage, mappings: Mapping[str, MeterMapping], exists: OrganizationExists
    ) -> None:
        self._record_usage = record_usage
        self._mappings = mappings
        self._exists = exists
        self._large = LargeMessages()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        cloudevents_pb2_grpc.add_CloudEventsServiceServicer_to_server(self, server)

    async def IngestCloudEvents(
        self, request: cloudevents_pb2.IngestCloudEventsRequest, context: ServicerContext
    ) -> cloudevents_pb2.IngestCloudEventsResponse:
        """See the proto."""
        mapped = await self._large.read(len(request.body), partial(self._mapped, request))
        messages = [each for each in mapped if not isinstance(each, Refusal)]
        admitted = await admit(messages, is_backfill=False, exists=self._exists)
        of_messages = iter(admitted.outcomes(await self._record_usage(admitted.events)))
        outcomes = [
            Outcome(Status.REJECTED, refusal=each) if isinstance(each, Refusal) else next(of_messages)
            for each in mapped
        ]
        return cloudevents_pb2.IngestCloudEventsResponse(
            results=[outcome_to_pb(index, outcome) for index, outcome in enumerate(outcomes)]
        )

    def _mapped(self, request: cloudevents_pb2.IngestCloudEventsRequest) -> list[metering_pb2.UsageEvent | Refusal]:
        return [
            event if isinstance(event, Refusal) else usage_event_to_pb(event, self._mappings)
            for event in events_of(http_message_from_pb(request))
        ]
