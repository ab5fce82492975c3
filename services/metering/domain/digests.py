"""The two digests of an event: who it is, and what it says.

Both hash a canonical encoding, in which no two different events share their bytes ("a"+"bc" is not "ab"+"c"). The
content digest covers the event as it was sent and nothing the server adds. Its version is stored beside it, and stays
here for ever: what was recorded with a version is recognised by that version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace

from services.metering.domain import sources
from services.metering.domain.events import EventRef, ProviderCall, Subject, UsageEvent

CONTENT_VERSION = 2
"""What new events are recorded with."""
_DIGEST_BYTES = 16


def identity_digest(event: UsageEvent | EventRef) -> bytes:
    """128 bits of (source, id). The organization is the first column of the key they are stored under."""
    source, event_id = event.source.encode(), event.id.encode()
    # As _digest((event.source, event.id)), spelled out: every event of every batch comes through here.
    encoded = b"s%b%bs%b%b" % (len(source).to_bytes(4, "big"), source, len(event_id).to_bytes(4, "big"), event_id)
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()


def content_digest(event: UsageEvent, *, version: int = CONTENT_VERSION) -> bytes:
    """128 bits of everything else that was sent. Empty, and so equal to none that was recorded, for an event that says
    something which that version had no word for.
    """
    if event.source == sources.OTLP:
        # Our door made them of the call, which is what was sent: it stays the same when the door learns to measure.
        event = replace(event, measurements=())
    if version == CONTENT_VERSION:
        return _second_version(event)
    if version == 1:
        return _first_version(event)
    raise ValueError(f"no version {version} of the content digest")


def _second_version(event: UsageEvent) -> bytes:
    """A JSON array in ASCII, as json.dumps writes it: text is quoted, so that no value can pass for two."""
    call, target = event.provider_call, event.reversal_of
    fields = [
        event.event_time_ns,
        *_parts(event.subject),
        event.reservation_id,
        event.reservation_final,
        [(each.meter, each.quantity) for each in event.measurements],
        None if call is None else _fields(call),
        None if target is None else (target.source, target.id),
        int(event.task_outcome),
        event.labels,
    ]
    return hashlib.blake2b(json.dumps(fields).encode("ascii"), digest_size=_DIGEST_BYTES).digest()


def _first_version(event: UsageEvent) -> bytes:
    """Length-prefixed fields. It knew no reversals, task outcomes and labels."""
    if event.reversal_of is not None or event.task_outcome or event.labels:
        return b""
    fields: list[str | int | None] = [
        event.event_time_ns,
        *_parts(event.subject),
        event.reservation_id,
        int(event.reservation_final),
        len(event.measurements),
    ]
    for measurement in event.measurements:
        fields += (measurement.meter, measurement.quantity)
    if event.provider_call is not None:
        fields += _fields(event.provider_call)
    return _digest(fields)


def _parts(subject: Subject) -> tuple[str, ...]:
    return (
        subject.project_id,
        subject.team_id,
        subject.user_id,
        subject.agent_id,
        subject.task_id,
        subject.session_id,
    )


def _fields(call: ProviderCall) -> tuple[str | int | None, ...]:
    return (
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


def _digest(fields: Iterable[str | int | None]) -> bytes:
    encoded = bytearray()
    for value in fields:
        kind, data = (b"n", b"") if value is None else (b"s" if isinstance(value, str) else b"i", str(value).encode())
        encoded += kind + len(data).to_bytes(4, "big") + data
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()
