"""OTLP's collector services: model calls that arrive as spans and log records.

Answers as OTLP 1.x asks for: what is refused for good is counted in partial_success and must not be sent again; a store
that is away is UNAVAILABLE, too much at once is RESOURCE_EXHAUSTED with a delay, and both are to be sent again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from kit.grpc.call import organization_of
from kit.grpc.context import ServicerContext
from services.metering.application.record_mapped_usage import RecordMappedUsage
from services.metering.domain.acceptance import Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.genai import ADAPTER_VERSION, CallRecord, usage_event
from services.metering.domain.refusals import Refusal
from services.metering.rpc.convert_otlp import records_from_logs, records_from_spans
from services.metering.rpc.large_messages import LargeMessages
from tollbook.access.v1 import access_pb2

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
LOGS_SERVICE = "opentelemetry.proto.collector.logs.v1.LogsService"
FOREIGN_SCOPES = {TRACE_SERVICE: access_pb2.SCOPE_USAGE_WRITE, LOGS_SERVICE: access_pb2.SCOPE_USAGE_WRITE}
"""What a key needs: these protos are not ours, and declare no access."""


class OtlpTraceServicer(trace_service_pb2_grpc.TraceServiceServicer):
    """Records spans."""

    service_name: ClassVar[str] = TRACE_SERVICE

    def __init__(self, record_usage: RecordMappedUsage) -> None:
        self._calls = _Calls(record_usage)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Records each span of a model call as one usage event; others are ignored."""
        response = trace_service_pb2.ExportTraceServiceResponse()
        rejected, message = await self._calls.record(request.ByteSize(), records_from_spans(request))
        if rejected:
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = message
        return response


class OtlpLogsServicer(logs_service_pb2_grpc.LogsServiceServicer):
    """Records log records."""

    service_name: ClassVar[str] = LOGS_SERVICE

    def __init__(self, record_usage: RecordMappedUsage) -> None:
        self._calls = _Calls(record_usage)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def Export(
        self, request: logs_service_pb2.ExportLogsServiceRequest, context: ServicerContext
    ) -> logs_service_pb2.ExportLogsServiceResponse:
        """Records each log record with a model call's usage as one usage event; others are ignored."""
        response = logs_service_pb2.ExportLogsServiceResponse()
        rejected, message = await self._calls.record(request.ByteSize(), records_from_logs(request))
        if rejected:
            response.partial_success.rejected_log_records = rejected
            response.partial_success.error_message = message
        return response


class _Calls:
    """The model calls of exports, on their way into the ledger."""

    def __init__(self, record_usage: RecordMappedUsage) -> None:
        self._record_usage = record_usage
        self._large = LargeMessages()

    async def record(self, size_bytes: int, records: Iterable[CallRecord]) -> tuple[int, str]:
        """How many were refused, and the first refusal in words."""
        calls = await self._large.read(size_bytes, partial(_mapped, records, await organization_of("")))
        outcomes = await self._record_usage([mapped for _, mapped in calls])
        refused = [
            (record, outcome.refusal)
            for (record, _), outcome in zip(calls, outcomes, strict=True)
            if outcome.status in (Status.CONFLICT, Status.REJECTED) and outcome.refusal is not None
        ]
        if not refused:
            return 0, ""
        record, refusal = refused[0]
        place = f"trace {record.trace_id.hex()} span {record.span_id.hex()}"
        return len(refused), f"{refusal.reason}: {refusal.message} ({place}, adapter {ADAPTER_VERSION})"


def _mapped(records: Iterable[CallRecord], organization_id: str) -> list[tuple[CallRecord, UsageEvent | Refusal]]:
    return [(record, mapped) for record in records if (mapped := usage_event(record, organization_id)) is not None]
