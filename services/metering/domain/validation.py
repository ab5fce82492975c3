"""What an event must be like before it may enter the ledger, whatever the ledger holds already."""

from __future__ import annotations

import re
from collections.abc import Collection, Container

from kit.ids import ORGANIZATION_ID_RULE, is_organization_id
from services.metering.domain import limits
from services.metering.domain.events import CallOutcome, EventRef, ProviderCall, Subject, TaskOutcome, UsageEvent
from services.metering.domain.refusals import Refusal

LABEL_KEYS = frozenset({"environment", "workflow", "feature", "team_cost_center"})
"""The keys that labels may have, unless the platform's operator lists others."""

_SUBJECT_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
_TASK_OUTCOMES = frozenset(TaskOutcome)
_CALL_OUTCOMES = frozenset(CallOutcome)
_LATENCY_NS_MAX = int(limits.LATENCY_MAX.total_seconds()) * 1_000_000_000


def validate(
    event: UsageEvent, known_meters: Container[str], label_keys: Container[str] = LABEL_KEYS
) -> Refusal | None:
    """Why the event is refused; None when it is sound. Time is judged later, and only for events not recorded yet."""
    return (
        _text_problem("id", event.id, limits.EVENT_ID_BYTES_MAX)
        or _text_problem("source", event.source, limits.SOURCE_BYTES_MAX)
        or _subject_problem(event.subject)
        or (_reversal_problem(event, event.reversal_of) if event.reversal_of else _shape_problem(event))
        or _measurements_problem(event, known_meters)
        or _call_problem(event.provider_call)
        or _labels_problem(event.labels, label_keys)
    )


def _subject_problem(subject: Subject) -> Refusal | None:
    if not subject.organization_id:
        return Refusal("ORGANIZATION_REQUIRED", "subject.organization_id: required with this key")
    if not is_organization_id(subject.organization_id):
        return Refusal("INVALID_FIELD", f"subject.organization_id: {ORGANIZATION_ID_RULE}")
    for name in ("project_id", "team_id", "user_id", "agent_id", "task_id", "session_id"):
        value = getattr(subject, name)
        if value and not _SUBJECT_ID.fullmatch(value):
            return Refusal("INVALID_FIELD", f"subject.{name}: 1 to 128 letters, digits or `_ - . : @`")
    if "@" in subject.user_id:
        # It looks like an e-mail address. Users appear as surrogates only, so that erasing a person is to forget whose
        # surrogate it is: the ledger is never rewritten.
        return Refusal("INVALID_FIELD", "subject.user_id: a surrogate, without `@`; never a name or an e-mail address")
    return None


def _reversal_problem(event: UsageEvent, target: EventRef) -> Refusal | None:
    bare = UsageEvent(
        id=event.id,
        source=event.source,
        subject=Subject(organization_id=event.subject.organization_id),
        event_time_ns=None,
        measurements=(),
        reversal_of=target,
    )
    if event != bare:
        message = "reversal_of: with it an event has an id, a source and an organization, and nothing else of its own"
        return Refusal("INVALID_FIELD", message)
    return _text_problem("reversal_of.id", target.id, limits.EVENT_ID_BYTES_MAX) or _text_problem(
        "reversal_of.source", target.source, limits.SOURCE_BYTES_MAX
    )


def _shape_problem(event: UsageEvent) -> Refusal | None:
    if event.event_time_ns is None:
        return Refusal("INVALID_FIELD", "event_time: required")
    if event.reservation_id and not _SUBJECT_ID.fullmatch(event.reservation_id):
        return Refusal("INVALID_FIELD", "reservation_id: 1 to 128 letters, digits or `_ - . : @`")
    if event.reservation_final and not event.reservation_id:
        return Refusal("INVALID_FIELD", "reservation_final: needs a reservation_id")
    if event.task_outcome not in _TASK_OUTCOMES:
        return Refusal("INVALID_FIELD", f"task_outcome: {event.task_outcome} is no TASK_OUTCOME")
    if not event.measurements and event.provider_call is None and not event.task_outcome:
        message = "measurements: an event needs a measurement, a provider call or a task outcome"
        return Refusal("INVALID_FIELD", message)
    return None


def _measurements_problem(event: UsageEvent, known_meters: Container[str]) -> Refusal | None:
    if len(event.measurements) > limits.EVENT_MEASUREMENTS_MAX:
        return Refusal("LIMIT_EXCEEDED", f"measurements: more than {limits.EVENT_MEASUREMENTS_MAX}")
    seen: set[str] = set()
    for measurement in event.measurements:
        if measurement.meter not in known_meters:
            # Or one that takes its value elsewhere, and would ignore a measurement in silence.
            return Refusal("UNKNOWN_METER", f"measurements: no meter {measurement.meter[:128]!r} counts measurements")
        if measurement.meter in seen:
            return Refusal("INVALID_FIELD", f"measurements: meter {measurement.meter!r} appears twice")
        seen.add(measurement.meter)
        if not 0 <= measurement.quantity <= limits.QUANTITY_MAX:
            message = f"measurements: quantity {measurement.quantity} of {measurement.meter!r} is not in 0 to 2^53 - 1"
            return Refusal("INVALID_QUANTITY", message)
    return None


def _call_problem(call: ProviderCall | None) -> Refusal | None:
    if call is None:
        return None
    if problem := _text_problem("provider_call.provider", call.provider, limits.NAME_BYTES_MAX):
        return problem
    for name in ("model", "operation", "error_code"):
        value = getattr(call, name)
        if value and (problem := _text_problem(f"provider_call.{name}", value, limits.NAME_BYTES_MAX)):
            return problem
    return _call_numbers_problem(call)


def _call_numbers_problem(call: ProviderCall) -> Refusal | None:
    for name in (
        "tokens_input_uncached",
        "tokens_cache_read",
        "tokens_cache_write",
        "tokens_output",
        "tokens_reasoning",
    ):
        if not 0 <= getattr(call, name) <= limits.QUANTITY_MAX:
            return Refusal("INVALID_QUANTITY", f"provider_call.{name}: not in 0 to 2^53 - 1")
    if call.outcome not in _CALL_OUTCOMES:
        return Refusal("INVALID_FIELD", f"provider_call.outcome: {call.outcome} is no OUTCOME")
    if call.latency_ns is not None and not 0 <= call.latency_ns <= _LATENCY_NS_MAX:
        return Refusal("INVALID_FIELD", "provider_call.latency: not in 0 to 24 hours")
    return None


def _labels_problem(labels: Collection[tuple[str, str]], label_keys: Container[str]) -> Refusal | None:
    if len(labels) > limits.LABELS_MAX:
        return Refusal("LIMIT_EXCEEDED", f"labels: more than {limits.LABELS_MAX}")
    for key, value in labels:
        if key not in label_keys:
            return Refusal("LABEL_NOT_ALLOWED", f"labels: key {key[:128]!r} is not on the platform's list")
        if problem := _text_problem(f"labels[{key}]", value, limits.LABEL_VALUE_BYTES_MAX):
            return problem
    return None


def _text_problem(name: str, value: str, bytes_max: int) -> Refusal | None:
    # Control characters are refused because Postgres cannot store NUL, and none of them belongs into a name.
    if not value or len(value.encode()) > bytes_max or not value.isprintable():
        return Refusal("INVALID_FIELD", f"{name}: 1 to {bytes_max} bytes of printable text")
    return None
