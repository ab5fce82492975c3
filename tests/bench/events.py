"""The events that are measured with: three measurements and one provider call each, metadata of a coding agent."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

from services.metering.domain.events import Measurement, ProviderCall, Subject, UsageEvent
from services.metering.rpc.convert import event_to_pb
from tollbook.metering.v1 import metering_pb2

_NUMBERS = itertools.count(1)


def make_events(count: int, organization_ids: Sequence[str]) -> list[UsageEvent]:
    """New events, of the organizations in turn."""
    now_ns = int(datetime.now(UTC).timestamp()) * 10**9
    numbers = itertools.islice(_NUMBERS, count)
    return [_event(number, organization_ids[number % len(organization_ids)], now_ns + number) for number in numbers]


def _event(number: int, organization_id: str, time_ns: int) -> UsageEvent:
    return UsageEvent(
        id=f"0192f0c1-7d4e-7c3a-9b1f-{number:012x}",
        source="orchestrator",
        subject=Subject(
            organization_id=organization_id,
            project_id=f"project-{number % 20}",
            team_id=f"team-{number % 5}",
            user_id=f"usr_{number % 100:024x}",
            agent_id=f"agent-{number % 50}",
            task_id=f"task_{number // 10:024x}",
            session_id=f"session_{number // 100:020x}",
        ),
        event_time_ns=time_ns,
        measurements=(
            Measurement("agent_minutes", 1_000 + number % 60_000),
            Measurement("tokens_input", 1_500 + number % 3_000),
            Measurement("tokens_output", 200 + number % 800),
        ),
        provider_call=ProviderCall(
            provider="openai_codex",
            model="gpt-5-codex",
            operation="completion",
            tokens_input_uncached=1_000 + number % 3_000,
            tokens_cache_read=500,
            tokens_cache_write=0,
            tokens_output=150 + number % 800,
            tokens_reasoning=50,
            latency_ns=1_200_000_000 + number % 1_000_000_000,
            outcome=1,
            error_code="",
        ),
    )


def stream_requests(events: Sequence[UsageEvent], batch_events: int) -> list[bytes]:
    """The same as requests of StreamUsage, encoded beforehand: the sender's work is not what is measured."""
    return [
        metering_pb2.StreamUsageRequest(
            batch_number=number, events=[event_to_pb(event) for event in batch]
        ).SerializeToString()
        for number, batch in enumerate(batches_of(events, batch_events), start=1)
    ]


def unary_requests(events: Sequence[UsageEvent], batch_events: int) -> list[bytes]:
    """The same as requests of RecordUsage."""
    return [
        metering_pb2.RecordUsageRequest(events=[event_to_pb(event) for event in batch]).SerializeToString()
        for batch in batches_of(events, batch_events)
    ]


def batches_of(events: Sequence[UsageEvent], batch_events: int) -> list[Sequence[UsageEvent]]:
    """The events in batches, in order."""
    return [events[start : start + batch_events] for start in range(0, len(events), batch_events)]
