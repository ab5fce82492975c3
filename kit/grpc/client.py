"""Channels to the other services: our identity, the request id of the call we serve, a deadline and safe retries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
from grpc.aio import ClientCallDetails, Metadata
from opentelemetry.instrumentation.grpc import aio_client_interceptors

from kit.grpc.call import REQUEST_ID_KEY, current_call
from kit.grpc.identity import AUTHORIZATION_KEY
from kit.telemetry.tracing import tracing_enabled

UNARY_DEADLINE_SECONDS = 5.0
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

# Every internal RPC is safe to repeat, so a peer that restarts costs its callers a pause and no error.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    # A watched feed may be quiet for hours; a peer that vanished meanwhile is still to be noticed.
    ("grpc.http2.max_pings_without_data", 0),
]


class _Identify:
    def __init__(self, key: str) -> None:
        self._authorization = f"Bearer {key}"

    def _details(self, details: ClientCallDetails, deadline_seconds: float | None) -> ClientCallDetails:
        metadata = Metadata(*(details.metadata or ()))
        metadata.add(AUTHORIZATION_KEY, self._authorization)
        call = current_call.get()
        if call is not None:
            metadata.add(REQUEST_ID_KEY, call.request_id)
        timeout = details.timeout if details.timeout is not None else deadline_seconds
        return ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


class _IdentifyUnary(_Identify, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self,
        continuation: Callable[[ClientCallDetails, Any], Any],
        client_call_details: ClientCallDetails,
        request: Any,
    ) -> Any:
        return await continuation(self._details(client_call_details, UNARY_DEADLINE_SECONDS), request)


class _IdentifyStream(_Identify, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self,
        continuation: Callable[[ClientCallDetails, Any], Any],
        client_call_details: ClientCallDetails,
        request: Any,
    ) -> Any:
        return await continuation(self._details(client_call_details, None), request)


def connect(address: str, key: str) -> grpc.aio.Channel:
    """A channel to `host:port` that carries the key. Connects on first use and again after a loss, without end."""
    tracing = aio_client_interceptors() if tracing_enabled() else []  # type: ignore[no-untyped-call]
    return grpc.aio.insecure_channel(
        address,
        options=[*OPTIONS, ("grpc.service_config", _SERVICE_CONFIG)],
        interceptors=[*tracing, _IdentifyUnary(key), _IdentifyStream(key)],
    )
