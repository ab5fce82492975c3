"""Usage events on the wire and in the domain."""

from __future__ import annotations

import base64
import binascii

from kit.clock import unix_microseconds
from kit.errors import InvalidField
from kit.feed import Page
from kit.grpc.convert import moment_from_pb, nanoseconds_from_pb, position_from_pb, position_to_pb
from services.metering.application.list_usage_events import ListedEvents
from services.metering.application.ports import Interval, Totals
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import EventRef, LedgerEvent, Measurement, ProviderCall, Subject, UsageEvent
from services.metering.domain.members import MemberTotals
from services.metering.domain.retention import Confirmation
from tollbook.errors.v1 import errors_pb2
from tollbook.metering.v1 import ledger_pb2, metering_pb2

_NANOS_PER_MICROSECOND = 1_000


def event_from_pb(message: metering_pb2.UsageEvent, organization_id: str, *, is_backfill: bool = False) -> UsageEvent:
    """The event, for the organization that the call may act on."""
    return UsageEvent(
        id=message.id,
        source=message.source,
        subject=subject_from_pb(message.subject, organization_id),
        # One out of protobuf's own range is no error here: the time window refuses it, event by event.
        event_time_ns=nanoseconds_from_pb(message.event_time) if message.HasField("event_time") else None,
        measurements=tuple(
            sorted((Measurement(each.meter, each.quantity) for each in message.measurements), key=_meter_of)
        ),
        provider_call=_call_from_pb(message.provider_call) if message.HasField("provider_call") else None,
        reservation_id=message.reservation_id,
        reservation_final=message.reservation_final,
        reversal_of=EventRef(message.reversal_of.source, message.reversal_of.id)
        if message.HasField("reversal_of")
        else None,
        task_outcome=message.task_outcome,
        labels=tuple(sorted(message.labels.items())) if message.labels else (),
        is_backfill=is_backfill,
    )


def subject_from_pb(message: metering_pb2.Subject, organization_id: str) -> Subject:
    """The subject, of the organization that the call may act on."""
    return Subject(
        organization_id=organization_id,
        project_id=message.project_id,
        team_id=message.team_id,
        user_id=message.user_id,
        agent_id=message.agent_id,
        task_id=message.task_id,
        session_id=message.session_id,
    )


def _meter_of(measurement: Measurement) -> str:
    return measurement.meter


def _call_from_pb(message: metering_pb2.ProviderCall) -> ProviderCall:
    latency = message.latency
    return ProviderCall(
        provider=message.provider,
        model=message.model,
        operation=message.operation,
        tokens_input_uncached=message.tokens_input_uncached,
        tokens_cache_read=message.tokens_cache_read,
        tokens_cache_write=message.tokens_cache_write,
        tokens_output=message.tokens_output,
        tokens_reasoning=message.tokens_reasoning,
        latency_ns=nanoseconds_from_pb(latency) if message.HasField("latency") else None,
        outcome=message.outcome,
        error_code=message.error_code,
    )


def event_to_pb(event: UsageEvent) -> metering_pb2.UsageEvent:
    """The event as it was sent, with its organization filled in."""
    subject, call, target = event.subject, event.provider_call, event.reversal_of
    message = metering_pb2.UsageEvent(
        id=event.id,
        source=event.source,
        subject=metering_pb2.Subject(
            organization_id=subject.organization_id,
            project_id=subject.project_id,
            team_id=subject.team_id,
            user_id=subject.user_id,
            agent_id=subject.agent_id,
            task_id=subject.task_id,
            session_id=subject.session_id,
        ),
        measurements=[
            metering_pb2.Measurement(meter=each.meter, quantity=each.quantity) for each in event.measurements
        ],
        reservation_id=event.reservation_id,
        reservation_final=event.reservation_final,
        reversal_of=None if target is None else metering_pb2.EventRef(source=target.source, id=target.id),
        task_outcome=metering_pb2.TaskOutcome.ValueType(event.task_outcome),
        labels=dict(event.labels),
    )
    if event.event_time_ns is not None:
        message.event_time.FromNanoseconds(event.event_time_ns)
    if call is not None:
        message.provider_call.CopyFrom(
            metering_pb2.ProviderCall(
                provider=call.provider,
                model=call.model,
                operation=call.operation,
                tokens_input_uncached=call.tokens_input_uncached,
                tokens_cache_read=call.tokens_cache_read,
                tokens_cache_write=call.tokens_cache_write,
                tokens_output=call.tokens_output,
                tokens_reasoning=call.tokens_reasoning,
                outcome=metering_pb2.Outcome.ValueType(call.outcome),
                error_code=call.error_code,
            )
        )
        if call.latency_ns is not None:
            message.provider_call.latency.FromNanoseconds(call.latency_ns)
    return message


def outcome_to_pb(index: int, outcome: Outcome) -> metering_pb2.EventResult:
    """The result of the event at `index`."""
    result = metering_pb2.EventResult(
        index=index,
        status=metering_pb2.EventStatus.Value(f"EVENT_STATUS_{outcome.status.value}"),
        sequence=outcome.sequence,
    )
    if outcome.refusal is not None:
        result.reason = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{outcome.refusal.reason}")
        result.message = outcome.refusal.message
    return result


def rows_to_pb(totals: Totals) -> list[metering_pb2.UsageRow]:
    """One row per meter, by name. Sums of measurements always fit; see domain/volume.py."""
    return [metering_pb2.UsageRow(meter=meter, quantity=quantity) for meter, quantity in totals.quantities.items()]


def add_members_to_pb(members: MemberTotals, response: ledger_pb2.SnapshotUsageResponse) -> None:
    """The totals of members."""
    for row in members.rows:
        response.scoped_rows.add(level=row.level.value, id=row.member, meter=row.meter, quantity=row.quantity)
    for each in members.incomplete:
        response.scoped_incomplete.add(level=each.level.value, meters=each.meters)


def page_to_pb(page: Page[LedgerEvent]) -> ledger_pb2.ReadLedgerResponse:
    """A page of the ledger."""
    response = ledger_pb2.ReadLedgerResponse(position=position_to_pb(page.position))
    for entry in page.entries:
        message = response.events.add(sequence=entry.sequence, event=event_to_pb(entry.event))
        message.receive_time.FromMicroseconds(entry.receive_time_us)
        if entry.reversed is not None:
            message.reversed.CopyFrom(event_to_pb(entry.reversed))
    return response


def confirmation_from_pb(message: ledger_pb2.ConfirmedPosition, organization_id: str) -> Confirmation:
    """What a follower confirms of an organization. Raises InvalidField."""
    position = position_from_pb(message.position)
    if position.sequence < 0 or not position.commit_id.isascii() or "\0" in position.commit_id:
        raise InvalidField(field="positions.position", problem="not one that a feed gave")
    has_time = message.HasField("needed_from_time")
    needed_from = moment_from_pb(message.needed_from_time, "positions.needed_from_time") if has_time else None
    return Confirmation(organization_id, position, needed_from)


def listed_to_pb(listed: ListedEvents, interval: Interval) -> metering_pb2.ListUsageEventsResponse:
    """A page of the listing of an interval."""
    response = metering_pb2.ListUsageEventsResponse(first_kept_sequence=listed.first_kept)
    for entry in listed.entries:
        message = response.events.add(sequence=entry.sequence, event=event_to_pb(entry.event))
        message.receive_time.FromMicroseconds(entry.receive_time_us)
    if listed.next_after is not None:
        response.next_page_token = _page_token(listed.next_after, interval)
    return response


def after_from_page_token(token: str, interval: Interval) -> int:
    """The sequence that the page comes after; 0 for the first page. Raises InvalidField for a token that was not given
    for this interval: its pages would neither be those of the one nor of the other.
    """
    if not token:
        return 0
    try:
        after = int(base64.b64decode(token, altchars=b"-_", validate=True).partition(b":")[0])
    except (binascii.Error, ValueError):
        after = -1
    if after < 0 or _page_token(after, interval) != token:
        raise InvalidField(field="page_token", problem="not one that ListUsageEvents gave for this interval")
    return after


def _page_token(after_sequence: int, interval: Interval) -> str:
    edges = [edge and unix_microseconds(edge) for edge in (interval.start, interval.end)]
    return base64.urlsafe_b64encode(f"{after_sequence}:{edges[0]}:{edges[1]}".encode()).decode()
