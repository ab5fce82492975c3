"""OpenTelemetry's spans and log records, as far as they report model calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from services.metering.domain.genai import ATTRIBUTES, RESOURCE_ATTRIBUTES, AttributeValue, CallRecord

_GEN_AI = "gen_ai."
# What an attribute that matters can hold. Lists, maps and bytes are contents, which are not read.
_SCALARS = frozenset({"string_value", "int_value", "double_value", "bool_value"})


def records_from_spans(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterator[CallRecord]:
    """The spans that have a `gen_ai.` attribute, in order."""
    for of_resource in request.resource_spans:
        shared = _attributes(of_resource.resource.attributes, RESOURCE_ATTRIBUTES)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                if _is_gen_ai(span.attributes):
                    yield _from_span(span, of_scope.scope.name, shared)


def records_from_logs(request: logs_service_pb2.ExportLogsServiceRequest) -> Iterator[CallRecord]:
    """The log records that have a `gen_ai.` attribute, in order."""
    for of_resource in request.resource_logs:
        shared = _attributes(of_resource.resource.attributes, RESOURCE_ATTRIBUTES)
        for of_scope in of_resource.scope_logs:
            for record in of_scope.log_records:
                if _is_gen_ai(record.attributes):
                    yield CallRecord(
                        attributes=shared | _attributes(record.attributes, ATTRIBUTES),
                        scope=of_scope.scope.name,
                        trace_id=record.trace_id,
                        span_id=record.span_id,
                        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
                        latency_ns=None,
                        is_error=False,
                        is_log=True,
                    )


def _from_span(span: trace_pb2.Span, scope: str, shared: dict[str, AttributeValue]) -> CallRecord:
    begin, end = span.start_time_unix_nano, span.end_time_unix_nano
    return CallRecord(
        attributes=shared | _attributes(span.attributes, ATTRIBUTES),
        scope=scope,
        trace_id=span.trace_id,
        span_id=span.span_id,
        time_ns=end,
        latency_ns=end - begin if 0 < begin <= end else None,
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        is_log=False,
    )


def _is_gen_ai(attributes: Iterable[common_pb2.KeyValue]) -> bool:
    return any(attribute.key.startswith(_GEN_AI) for attribute in attributes)


def _attributes(attributes: Iterable[common_pb2.KeyValue], names: frozenset[str]) -> dict[str, AttributeValue]:
    taken: dict[str, AttributeValue] = {}
    for attribute in attributes:
        if attribute.key in names:
            kind = attribute.value.WhichOneof("value")
            if kind in _SCALARS:
                taken[attribute.key] = getattr(attribute.value, kind)
    return taken
