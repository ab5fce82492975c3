"""The two digests of an event: who it is, and what it says.

Both hash a canonical, length-prefixed encoding, so that no two different events share their bytes ("a"+"bc" is not
"ab"+"c"). The content digest covers the event as it was sent and nothing the server adds; its version is stored beside
it, so that a later encoding can still recognise old events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from services.metering.domain.events import UsageEvent

CONTENT_VERSION = 1
_DIGEST_BYTES = 16


def identity_digest(event: UsageEvent) -> bytes:
    """128 bits of (source, id). The organization is the first column of the key they are stored under."""
    return _digest((event.source, event.id))


def content_digest(event: UsageEvent) -> bytes:
    """128 bits of everything else that was sent."""
    subject, call = event.subject, event.provider_call
    fields: list[str | int | None] = [
        event.event_time_ns,
        subject.project_id,
        subject.team_id,
        subject.user_id,
        subject.agent_id,
        subject.task_id,
        subject.session_id,
        event.reservation_id,
        int(event.reservation_final),
        len(event.measurements),
    ]
    for measurement in event.measurements:
        fields += (measurement.meter, measurement.quantity)
    if call is not None:
        fields += (
            call.provider,
            call.model,
            call.operation,
            call.tokens_input_uncached,
            call.tokens_cache_read,
            call.tokens_cache_write,
            call.tokens_output,
            call.tokens_reasoning,
            call.latency_ns,
            call.outcome,
            call.error_code,
        )
    return _digest(fields)


def _digest(fields: Iterable[str | int | None]) -> bytes:
    encoded = bytearray()
    for value in fields:
        kind, data = (b"n", b"") if value is None else (b"s" if isinstance(value, str) else b"i", str(value).encode())
        encoded += kind + len(data).to_bytes(4, "big") + data
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()
