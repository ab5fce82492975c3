"""Envoy's rate limit descriptors as checks, and the answers as its statuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from envoyproxy.config.core.v3.base_pb2 import HeaderValue
from envoyproxy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoyproxy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from envoyproxy.type.v3 import ratelimit_unit_pb2
from kit.errors import InvalidField, LimitExceeded
from services.quota.application.ports import Answer
from services.quota.domain.checks import Check, Consumption, Mode, Subject, is_subject_id
from services.quota.domain.decisions import LimitState
from services.quota.domain.limits import Limit, LimitKind, LimitScope, ScopeKind, Window, WindowStyle
from services.quota.domain.maxima import DESCRIPTORS_MAX
from services.quota.rpc.convert import denial_metadata

_SUBJECT_KEYS = frozenset({"project_id", "team_id", "user_id", "agent_id", "task_id"})
_ORGANIZATION_KEY, _METER_KEY = "organization_id", "meter"
_METER_DEFAULT = "api_calls"
_KNOWN_KEYS = _SUBJECT_KEYS | {_ORGANIZATION_KEY, _METER_KEY}
_OVERRIDE_ID = "envoy:override"
_MICROSECONDS = 1_000_000
_UINT32_MAX = 2**32 - 1
_LENGTHS_US = {
    ratelimit_unit_pb2.SECOND: _MICROSECONDS,
    ratelimit_unit_pb2.MINUTE: 60 * _MICROSECONDS,
    ratelimit_unit_pb2.HOUR: 3_600 * _MICROSECONDS,
    ratelimit_unit_pb2.DAY: 86_400 * _MICROSECONDS,
}
# Envoy knows no billing period and no concurrency: their unit stays unknown.
_UNITS = {
    _LENGTHS_US[ratelimit_unit_pb2.SECOND]: RateLimitResponse.RateLimit.SECOND,
    _LENGTHS_US[ratelimit_unit_pb2.MINUTE]: RateLimitResponse.RateLimit.MINUTE,
    _LENGTHS_US[ratelimit_unit_pb2.HOUR]: RateLimitResponse.RateLimit.HOUR,
    _LENGTHS_US[ratelimit_unit_pb2.DAY]: RateLimitResponse.RateLimit.DAY,
}


def organization_named(request: RateLimitRequest) -> str:
    """The organization that the descriptors name; empty when none does. Raises InvalidField when they name several:
    what is decided together lies together.
    """
    named = {
        entry.value
        for descriptor in request.descriptors
        for entry in descriptor.entries
        if entry.key == _ORGANIZATION_KEY
    }
    if len(named) > 1:
        raise InvalidField(field="descriptors", problem="they name more than one organization_id")
    return next(iter(named), "")


def is_ours(descriptor: RateLimitDescriptor) -> bool:
    """Whether quota has a word for every entry; a descriptor with another is limited by nothing here."""
    return all(entry.key in _KNOWN_KEYS for entry in descriptor.entries)


def check_from_descriptor(descriptor: RateLimitDescriptor, hits: int, organization_id: str) -> Check:
    """The consumption that a descriptor asks for; `hits` unless it says otherwise. Raises InvalidField."""
    entries: dict[str, str] = {}
    for entry in descriptor.entries:
        if entry.key in entries:
            raise InvalidField(field="descriptors.entries", problem=f"{entry.key} appears twice")
        entries[entry.key] = entry.value
    if descriptor.is_negative_hits:
        raise InvalidField(field="descriptors.is_negative_hits", problem="what was consumed cannot be given back")
    meter = entries.get(_METER_KEY, _METER_DEFAULT)
    quantity = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else hits
    subject = {key: _as_id(value) for key, value in entries.items() if key in _SUBJECT_KEYS}
    check = Check(
        request_id="",
        subject=Subject(organization_id=organization_id, **subject),
        consumptions=(Consumption(meter, quantity),),
        mode=Mode.CONSUME,
        reserve_us=0,
    )
    return replace(check, brought=(_brought(descriptor, check),)) if descriptor.HasField("limit") else check


def checks_from_pb(request: RateLimitRequest, organization_id: str) -> list[Check]:
    """A consumption for each descriptor that is ours, in order. Raises InvalidField and LimitExceeded."""
    # Envoy's rule for the request: 0 means 1. Of a descriptor 0 means 0.
    hits = request.hits_addend or 1
    return [
        check_from_descriptor(descriptor, hits, organization_id)
        for descriptor in request.descriptors
        if is_ours(descriptor)
    ]


def require_bounded(request: RateLimitRequest) -> None:
    """Raises LimitExceeded when there are too many descriptors, and InvalidField when there are none."""
    if not request.descriptors:
        raise InvalidField(field="descriptors", problem="at least one is needed")
    if len(request.descriptors) > DESCRIPTORS_MAX:
        raise LimitExceeded(what="descriptors", actual=len(request.descriptors), maximum=DESCRIPTORS_MAX)


def response_to_pb(request: RateLimitRequest, answers: Iterable[Answer]) -> RateLimitResponse:
    """The answers to the descriptors that are ours, in order, among those that are not."""
    given = iter(answers)
    judged = [next(given) if is_ours(descriptor) else None for descriptor in request.descriptors]
    response = RateLimitResponse(overall_code=RateLimitResponse.OK, statuses=[_status(each) for each in judged])
    if any(status.code == RateLimitResponse.OVER_LIMIT for status in response.statuses):
        response.overall_code = RateLimitResponse.OVER_LIMIT
    response.response_headers_to_add.extend(_headers([each for each in judged if each is not None]))
    return response


def _as_id(value: str) -> str:
    # Such a value often comes from whoever is to be limited. Were it refused, Envoy would let the request pass.
    return value if is_subject_id(value) else f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"


def _brought(descriptor: RateLimitDescriptor, check: Check) -> Limit:
    override = descriptor.limit
    length_us = _LENGTHS_US.get(override.unit)
    if length_us is None:
        raise InvalidField(field="descriptors.limit.unit", problem="not SECOND, MINUTE, HOUR or DAY")
    if override.HasField("unit_multiplier") and override.unit_multiplier.value != 1:
        raise InvalidField(field="descriptors.limit.unit_multiplier", problem="not 1")
    narrowest = check.subject.scopes[-1]
    scope = LimitScope(narrowest.kind, None if narrowest.kind is ScopeKind.ORGANIZATION else narrowest.id)
    return Limit(
        limit_id=_OVERRIDE_ID,
        scope=scope,
        meter=check.consumptions[0].meter,
        kind=LimitKind.WINDOW,
        value=override.requests_per_unit,
        grace_percent=0,
        window=Window(length_us, WindowStyle.FIXED),
    )


@dataclass(frozen=True, slots=True)
class _Governing:
    """The limit that says most about an answer: the first that denies, else the one with least left."""

    state: LimitState
    hard: int
    remaining: int
    reset_us: int | None
    """How long until it is whole again; None: not by time."""

    @property
    def rank(self) -> tuple[bool, int]:
        return (not self.state.denies, self.remaining)


def _governing(answer: Answer) -> _Governing | None:
    found: list[_Governing] = []
    for state in answer.decision.states:
        hard, remaining = state.limit.hard, state.remaining
        if hard is not None and remaining is not None and not state.limit.shadow:
            found.append(_Governing(state, hard, remaining, _until_reset_us(state, answer)))
    return min(found, key=lambda each: each.rank, default=None)


def _until_reset_us(state: LimitState, answer: Answer) -> int | None:
    match state.limit.kind:
        case LimitKind.PERIOD:
            then_us: int | None = answer.period.end_us
        case LimitKind.WINDOW:
            then_us = state.empty_us
        case _:
            then_us = None
    return None if then_us is None else max(0, then_us - answer.decided_us)


def _status(answer: Answer | None) -> RateLimitResponse.DescriptorStatus:
    status = RateLimitResponse.DescriptorStatus(code=RateLimitResponse.OK)
    if answer is None:
        return status
    if answer.decision.is_denied:
        status.code = RateLimitResponse.OVER_LIMIT
    governing = _governing(answer)
    if governing is None:
        return status
    limit = governing.state.limit
    status.current_limit.name = limit.limit_id
    status.current_limit.requests_per_unit = min(governing.hard, _UINT32_MAX)
    if limit.window is not None:
        status.current_limit.unit = _UNITS[limit.window.length_us]
    status.limit_remaining = min(governing.remaining, _UINT32_MAX)
    if governing.reset_us is not None:
        status.duration_until_reset.FromMicroseconds(governing.reset_us)
    return status


def _headers(answers: Sequence[Answer]) -> list[HeaderValue]:
    """As draft-ietf-httpapi-ratelimit-headers-03 names them, of the limit that governs all, and when to come again."""
    headers: dict[str, str] = {}
    governing = min(
        (found for answer in answers if (found := _governing(answer)) is not None),
        key=lambda each: each.rank,
        default=None,
    )
    if governing is not None:
        headers["ratelimit-limit"] = str(governing.hard)
        headers["ratelimit-remaining"] = str(governing.remaining)
        if governing.reset_us is not None:
            headers["ratelimit-reset"] = str(-(-governing.reset_us // _MICROSECONDS))
    waits = [int(value) for answer in answers for key, value in denial_metadata(answer) if key == "retry-after"]
    if waits:
        headers["retry-after"] = str(max(waits))
    return [HeaderValue(key=key, value=value) for key, value in headers.items()]
