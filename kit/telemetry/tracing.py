"""OpenTelemetry tracing: on when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, free of cost otherwise."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def tracing_enabled() -> bool:
    """Whether spans have somewhere to go."""
    return bool(os.environ.get(_ENDPOINT))


def configure_tracing(service: str) -> None:
    """Exports spans over OTLP in the background, if an endpoint is configured. Call once, at start."""
    if not tracing_enabled():
        return
    provider = TracerProvider(resource=Resource.create({"service.name": f"tollbook-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
