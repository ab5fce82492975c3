"""Ledger entries as rows of metering.events, and back.

Rows go in as one array per column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.postgres.arrays import flag_array, number_array, text_array, time_array
from services.metering.domain.events import (
    EventRef,
    LedgerEvent,
    Measurement,
    ProviderCall,
    Subject,
    UsageEvent,
    negated,
)

_NANOS_PER_MICROSECOND = 1_000
_COLUMN_TYPES = {
    "organization_id": "text",
    "sequence": "bigint",
    "source": "text",
    "id": "text",
    "event_time": "timestamptz",
    "event_time_nanos": "smallint",
    "project_id": "text",
    "team_id": "text",
    "user_id": "text",
    "agent_id": "text",
    "task_id": "text",
    "session_id": "text",
    "measurements": "jsonb",
    "provider_call": "jsonb",
    "reservation_id": "text",
    "reservation_final": "boolean",
    "task_outcome": "smallint",
    "labels": "jsonb",
    "reversal_of_source": "text",
    "reversal_of_id": "text",
    "receive_time": "timestamptz",
}

EVENT_COLUMNS = ", ".join(_COLUMN_TYPES)
"""What tells one entry of a batch from another; commit_id is the batch's own."""
_READ_AS_TEXT = ("measurements", "provider_call")
READ_COLUMNS = ", ".join(
    [f"CAST({name} AS text) AS {name}" if name in _READ_AS_TEXT else name for name in _COLUMN_TYPES] + ["commit_id"]
)
"""What is read of an entry: its columns and that of its batch, JSON undecoded."""
EVENT_ARRAYS = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in _COLUMN_TYPES.items())
"""The same as arguments of unnest, with the names that event_arrays answers."""

_quoted = json.encoder.encode_basestring_ascii


def event_arrays(entries: Sequence[LedgerEvent]) -> dict[str, str]:
    """The columns of EVENT_ARRAYS, each the literal of an array with one element per entry."""
    counted = [entry.counted for entry in entries]
    times = [divmod(event.event_time_ns or 0, _NANOS_PER_MICROSECOND) for event in counted]
    subjects = [event.subject for event in counted]
    targets = [entry.event.reversal_of for entry in entries]
    # One per organization, for many entries: to write a moment takes longer than all else of its column.
    received = {each: from_unix_microseconds(each).isoformat() for each in {entry.receive_time_us for entry in entries}}
    return {
        "organization_id": text_array([subject.organization_id for subject in subjects]),
        "sequence": number_array([entry.sequence for entry in entries]),
        "source": text_array([event.source for event in counted]),
        "id": text_array([event.id for event in counted]),
        "event_time": time_array([from_unix_microseconds(microseconds) for microseconds, _ in times]),
        "event_time_nanos": number_array([nanos for _, nanos in times]),
        "project_id": text_array([subject.project_id for subject in subjects]),
        "team_id": text_array([subject.team_id for subject in subjects]),
        "user_id": text_array([subject.user_id for subject in subjects]),
        "agent_id": text_array([subject.agent_id for subject in subjects]),
        "task_id": text_array([subject.task_id for subject in subjects]),
        "session_id": text_array([subject.session_id for subject in subjects]),
        "measurements": text_array([_measurements_to_json(event.measurements) for event in counted]),
        "provider_call": text_array(
            [None if event.provider_call is None else _call_to_json(event.provider_call) for event in counted]
        ),
        "reservation_id": text_array([event.reservation_id for event in counted]),
        "reservation_final": flag_array([event.reservation_final for event in counted]),
        "task_outcome": number_array([event.task_outcome for event in counted]),
        "labels": text_array([json.dumps(dict(event.labels)) if event.labels else None for event in counted]),
        "reversal_of_source": text_array([None if target is None else target.source for target in targets]),
        "reversal_of_id": text_array([None if target is None else target.id for target in targets]),
        "receive_time": text_array([received[entry.receive_time_us] for entry in entries]),
    }


def entries_from_rows(rows: Sequence[Row[Any]]) -> list[LedgerEvent]:
    """The entries, of rows with READ_COLUMNS."""
    measurements = _from_json([row.measurements for row in rows])
    calls = iter(_from_json([row.provider_call for row in rows if row.provider_call is not None]))
    return [
        _entry(row, measured, next(calls) if row.provider_call is not None else None)
        for row, measured in zip(rows, measurements, strict=True)
    ]


def _from_json(documents: Iterable[str]) -> list[dict[str, Any]]:
    # One document of them all: beginning and ending the decoder takes longer than what it does for each.
    decoded: list[dict[str, Any]] = json.loads(f"[{','.join(documents)}]")
    return decoded


def _entry(row: Row[Any], measurements: dict[str, int], call: dict[str, Any] | None) -> LedgerEvent:
    counted = UsageEvent(
        id=row.id,
        source=row.source,
        subject=Subject(
            organization_id=row.organization_id,
            project_id=row.project_id,
            team_id=row.team_id,
            user_id=row.user_id,
            agent_id=row.agent_id,
            task_id=row.task_id,
            session_id=row.session_id,
        ),
        event_time_ns=unix_microseconds(row.event_time) * _NANOS_PER_MICROSECOND + row.event_time_nanos,
        measurements=tuple([Measurement(meter, measurements[meter]) for meter in sorted(measurements)]),
        provider_call=None if call is None else ProviderCall(**call),
        reservation_id=row.reservation_id,
        reservation_final=row.reservation_final,
        task_outcome=row.task_outcome,
        labels=tuple(sorted(row.labels.items())) if row.labels else (),
    )
    receive_time_us = unix_microseconds(row.receive_time)
    if row.reversal_of_id is None:
        return LedgerEvent(row.sequence, row.commit_id, receive_time_us, counted)
    target = EventRef(row.reversal_of_source, row.reversal_of_id)
    as_sent = UsageEvent(
        id=row.id,
        source=row.source,
        subject=Subject(organization_id=row.organization_id),
        event_time_ns=None,
        measurements=(),
        reversal_of=target,
    )
    taken_back = replace(negated(counted), source=target.source, id=target.id)
    return LedgerEvent(row.sequence, row.commit_id, receive_time_us, as_sent, taken_back)


def _measurements_to_json(measurements: Iterable[Measurement]) -> str:
    return "{" + ",".join([f"{_quoted(each.meter)}:{each.quantity}" for each in measurements]) + "}"


def _call_to_json(call: ProviderCall) -> str:
    latency = "null" if call.latency_ns is None else call.latency_ns
    return (
        f'{{"provider":{_quoted(call.provider)},"model":{_quoted(call.model)},"operation":{_quoted(call.operation)},'
        f'"tokens_input_uncached":{call.tokens_input_uncached},"tokens_cache_read":{call.tokens_cache_read},'
        f'"tokens_cache_write":{call.tokens_cache_write},"tokens_output":{call.tokens_output},'
        f'"tokens_reasoning":{call.tokens_reasoning},"latency_ns":{latency},"outcome":{call.outcome},'
        f'"error_code":{_quoted(call.error_code)}}}'
    )
