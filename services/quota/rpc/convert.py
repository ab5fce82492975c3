"""Checks and quotas on the wire and in the domain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration

from kit.errors import InvalidField
from kit.grpc.convert import nanoseconds_from_pb
from kit.recent import Recent
from services.quota.application.list_quotas import Quotas
from services.quota.application.ports import Answer
from services.quota.domain.checks import Check, Consumption, Mode, Subject
from services.quota.domain.decisions import STANDING_REASONS, DenyReason, LimitState, Outcome, Remedy
from services.quota.domain.entitlements import Period, Standing
from services.quota.domain.limits import Counter, Limit, LimitKind, Scope
from services.quota.domain.maxima import RESERVE_US_DEFAULT
from services.quota.rpc.convert_limits import KINDS, SCOPE_KINDS
from tollbook.metering.v1 import metering_pb2
from tollbook.quota.v1 import quota_pb2

_MICROSECONDS = 1_000_000
_NANOSECONDS = 1_000_000_000
_NANOSECONDS_PER_MICROSECOND = 1_000

_MODES = {
    quota_pb2.CHECK_MODE_DECIDE: Mode.DECIDE,
    quota_pb2.CHECK_MODE_RESERVE: Mode.RESERVE,
    quota_pb2.CHECK_MODE_CONSUME: Mode.CONSUME,
}
_DECISIONS = {
    Outcome.ALLOWED: quota_pb2.DECISION_ALLOWED,
    Outcome.ALLOWED_IN_GRACE: quota_pb2.DECISION_ALLOWED_IN_GRACE,
    Outcome.DENIED: quota_pb2.DECISION_DENIED,
}
_REASONS = {
    DenyReason.LIMIT_REACHED: quota_pb2.DENY_REASON_LIMIT_REACHED,
    DenyReason.CONCURRENCY: quota_pb2.DENY_REASON_CONCURRENCY,
    DenyReason.RATE: quota_pb2.DENY_REASON_RATE,
    DenyReason.STORE_UNAVAILABLE: quota_pb2.DENY_REASON_STORE_UNAVAILABLE,
    DenyReason.SUSPENDED: quota_pb2.DENY_REASON_SUSPENDED,
    DenyReason.NO_PLAN: quota_pb2.DENY_REASON_NO_PLAN,
}
_MESSAGES = {
    DenyReason.LIMIT_REACHED: "Plan limit reached. Upgrade to continue.",
    DenyReason.CONCURRENCY: "As many are running at once as the plan allows. Wait for one to end, or upgrade.",
    DenyReason.RATE: "Too much for now. Try again after the time given.",
    DenyReason.STORE_UNAVAILABLE: "Usage cannot be counted right now, and the limit denies what it cannot count.",
    DenyReason.SUSPENDED: "The subscription is suspended or paused. Settle what is due, or resume it, to continue.",
    DenyReason.NO_PLAN: "There is no plan. Choose one to continue.",
}
# What these say of waiting would mislead who asks for more than a window, or all that may run, ever holds.
_AT_ONCE = frozenset({DenyReason.RATE, DenyReason.CONCURRENCY})
_MORE_THAN_EVER = "This asks for more than the limit ever allows at once."
# The edge turns these into HTTP 429. A standing is no matter of how much: it stays a 200 with its decision.
_TOO_MUCH = frozenset({DenyReason.LIMIT_REACHED, DenyReason.CONCURRENCY, DenyReason.RATE})


def check_from_pb(message: quota_pb2.CheckRequest, organization_id: str, *, owner: str) -> Check:
    """The check, for the organization that the call may act on; owner: the id of the caller's key. Raises InvalidField
    for an unknown mode.
    """
    mode = _mode_from_pb(message)
    return Check(
        request_id=message.request_id,
        subject=subject_from_pb(message.subject, organization_id),
        consumptions=consumptions_from_pb(message.consumptions),
        mode=mode,
        reserve_us=reserve_us_from_pb(message) if mode is Mode.RESERVE else 0,
        owner=owner,
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


def consumptions_from_pb(messages: Iterable[quota_pb2.Consumption]) -> tuple[Consumption, ...]:
    """The consumptions, by meter."""
    consumptions = [Consumption(each.meter, each.quantity if each.HasField("quantity") else None) for each in messages]
    if len(consumptions) > 1:
        consumptions.sort(key=lambda each: each.meter)
    return tuple(consumptions)


def reserve_us_from_pb(message: quota_pb2.CheckRequest | quota_pb2.ExtendReservationRequest) -> int:
    """How long to hold; unset: the default. Raises InvalidField for what is no duration."""
    if not message.HasField("reserve_duration"):
        return RESERVE_US_DEFAULT
    return _duration_us(message.reserve_duration)


def _mode_from_pb(message: quota_pb2.CheckRequest) -> Mode:
    if message.mode == quota_pb2.CHECK_MODE_UNSPECIFIED:
        return Mode.RESERVE if message.HasField("reserve_duration") else Mode.DECIDE
    mode = _MODES.get(message.mode)
    if mode is None:
        raise InvalidField(field="mode", problem=f"unknown value {message.mode}")
    return mode


def _duration_us(duration: Duration) -> int:
    # Protobuf lets any nanos through; those of a duration of ours are a fraction of a second.
    if not 0 <= duration.nanos < _NANOSECONDS:
        raise InvalidField(field="reserve_duration", problem="nanos are not in 0 to 999999999")
    return nanoseconds_from_pb(duration) // _NANOSECONDS_PER_MICROSECOND


def answer_to_pb(answer: Answer) -> quota_pb2.CheckResponse:
    """The answer."""
    decision = answer.decision
    response = quota_pb2.CheckResponse(decision=_DECISIONS[decision.outcome])
    for state in decision.states:
        message = response.limits.add()
        message.CopyFrom(_standing_part(state, answer.period, answer.entitlement_version))
        _count_into(message, state, answer.applied_sequence)
    if answer.degraded:
        response.degraded = True
    if decision.reason is not None:
        response.deny_reason = _REASONS[decision.reason]
        never = decision.remedy is Remedy.NOTHING and decision.reason in _AT_ONCE
        response.message = _MORE_THAN_EVER if never else _MESSAGES[decision.reason]
    if answer.reservation is not None:
        response.reservation_id = answer.reservation.reservation_id
        response.expire_time.FromMicroseconds(answer.reservation.expire_us)
    retry_us = _retry_after_us(answer)
    if retry_us is not None:
        response.retry_after.FromMicroseconds(retry_us)
    return response


def denial_metadata(answer: Answer) -> tuple[tuple[str, str], ...]:
    """What the edge needs to answer a denial in HTTP's own words; empty for every other answer."""
    if answer.decision.reason not in _TOO_MUCH:
        return ()
    retry_us = _retry_after_us(answer)
    if retry_us is None:
        # Waiting does not help this very request, but HTTP clients pace themselves by the header: when all counts anew.
        retry_us = max(0, answer.period.end_us - answer.decided_us)
    # Rounded up: a second early would be denied again.
    return (("x-http-code", "429"), ("retry-after", str(max(1, -(-retry_us // _MICROSECONDS)))))


def _retry_after_us(answer: Answer) -> int | None:
    match answer.decision.remedy:
        case Remedy.ROOM:
            then_us = answer.decision.room_us
        case Remedy.RELEASE:
            # Some hold ends then at the latest; which one is in the way is not worth a closer look.
            then_us = answer.instant.next_expiry_us
        case Remedy.RESET:
            then_us = answer.period.end_us
        case _:
            then_us = None
    return None if then_us is None else max(0, then_us - answer.decided_us)


def quotas_to_pb(quotas: Quotas) -> quota_pb2.ListQuotasResponse:
    """The limits with their counters."""
    return quota_pb2.ListQuotasResponse(
        limits=_states_to_pb(quotas.states, quotas),
        plan_id=quotas.entitlement.plan_id,
        deny_reason=_standing_to_pb(quotas.entitlement.standing),
    )


def watched_to_pb(quotas: Quotas, given: Quotas | None) -> quota_pb2.WatchQuotasResponse:
    """What is new of quotas to who was given others before; None: nothing."""
    # Another entitlement changes what every state says.
    is_complete = given is None or given.entitlement != quotas.entitlement
    before = {} if given is None else given.by_limit
    states = [
        state
        for limit_id, states in quotas.by_limit.items()
        if is_complete or states != before.get(limit_id)
        for state in states
    ]
    return quota_pb2.WatchQuotasResponse(
        limits=_states_to_pb(states, quotas),
        removed_limit_ids=[limit_id for limit_id in before if limit_id not in quotas.by_limit],
        complete=is_complete,
        plan_id=quotas.entitlement.plan_id,
        resume_token=quotas.token,
        deny_reason=_standing_to_pb(quotas.entitlement.standing),
    )


def _standing_to_pb(standing: Standing) -> quota_pb2.DenyReason.ValueType:
    reason = STANDING_REASONS.get(standing)
    return quota_pb2.DENY_REASON_UNSPECIFIED if reason is None else _REASONS[reason]


def _states_to_pb(states: Iterable[LimitState], quotas: Quotas) -> list[quota_pb2.LimitState]:
    messages: list[quota_pb2.LimitState] = []
    for state in states:
        message = _standing_to_state(state, quotas.entitlement.period, quotas.entitlement.version)
        _count_into(message, state, quotas.applied_sequence)
        messages.append(message)
    return messages


class _Part(NamedTuple):
    """What of a limit's state is the same in every answer by the same terms; with what it is of, which must stay as
    long as it is found by their identities.
    """

    limit: Limit
    counter: Counter
    period: Period
    message: quota_pb2.LimitState


_PARTS_MAX = 10_000
_PARTS = Recent[tuple[int, int, int, int], _Part](_PARTS_MAX)


def _standing_part(state: LimitState, period: Period, entitlement_version: int) -> quota_pb2.LimitState:
    """As _standing_to_state, remembered: to copy it costs a tenth. Checks name the same limits over and over."""
    key = (id(state.limit), id(state.counter), id(period), entitlement_version)
    part = _PARTS.get(key)
    if part is None:
        message = _standing_to_state(state, period, entitlement_version)
        part = _Part(state.limit, state.counter, period, message)
        _PARTS.put(key, part)
    return part.message


def _standing_to_state(state: LimitState, period: Period, entitlement_version: int) -> quota_pb2.LimitState:
    limit = state.limit
    message = quota_pb2.LimitState(
        limit_id=limit.limit_id,
        scope=_scope_to_pb(state.counter.scope),
        meter=limit.meter,
        kind=KINDS[limit.kind],
        limit=limit.value,
        hard_limit=limit.hard,
        shadow=limit.shadow,
        entitlement_version=entitlement_version,
    )
    if limit.kind is LimitKind.PERIOD:
        message.reset_time.FromMicroseconds(period.end_us)
    return message


def _count_into(message: quota_pb2.LimitState, state: LimitState, applied_sequence: int) -> None:
    """What is counted, into a state that says already of what."""
    message.used = state.used
    message.held = state.held
    if (remaining := state.remaining) is not None:
        message.remaining = remaining
    message.applied_sequence = applied_sequence
    if state.empty_us is not None:
        message.reset_time.FromMicroseconds(state.empty_us)
    if state.outcome is not None:
        message.decision = _DECISIONS[state.outcome]


def _scope_to_pb(scope: Scope) -> quota_pb2.LimitScope:
    return quota_pb2.LimitScope(kind=SCOPE_KINDS[scope.kind], id=scope.id or None)
