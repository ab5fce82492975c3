"""Limits on the wire and in the domain."""

from __future__ import annotations

import base64
import hashlib

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from kit.errors import InvalidField
from kit.grpc.call import current_actor
from services.quota.application.list_limits import LimitPage
from services.quota.application.ports import ChangeRequest
from services.quota.domain.limits import (
    WHOLE_ORGANIZATION,
    Limit,
    LimitKind,
    LimitScope,
    ScopeKind,
    UnavailablePolicy,
    Window,
    WindowStyle,
)
from tollbook.quota.v1 import quota_pb2

_MICROSECONDS = 1_000_000
_GRACE_PERCENT_DEFAULT = {LimitKind.PERIOD: 10, LimitKind.WINDOW: 0, LimitKind.CONCURRENCY: 0}

KINDS = {
    LimitKind.PERIOD: quota_pb2.LIMIT_KIND_PERIOD,
    LimitKind.WINDOW: quota_pb2.LIMIT_KIND_WINDOW,
    LimitKind.CONCURRENCY: quota_pb2.LIMIT_KIND_CONCURRENCY,
}
SCOPE_KINDS = {
    ScopeKind.ORGANIZATION: quota_pb2.LIMIT_SCOPE_KIND_ORGANIZATION,
    ScopeKind.PROJECT: quota_pb2.LIMIT_SCOPE_KIND_PROJECT,
    ScopeKind.TEAM: quota_pb2.LIMIT_SCOPE_KIND_TEAM,
    ScopeKind.USER: quota_pb2.LIMIT_SCOPE_KIND_USER,
    ScopeKind.AGENT: quota_pb2.LIMIT_SCOPE_KIND_AGENT,
    ScopeKind.TASK: quota_pb2.LIMIT_SCOPE_KIND_TASK,
}
_STYLES = {
    WindowStyle.FIXED: quota_pb2.WINDOW_STYLE_FIXED,
    WindowStyle.SLIDING: quota_pb2.WINDOW_STYLE_SLIDING,
}
_POLICIES = {
    UnavailablePolicy.ALLOW: quota_pb2.UNAVAILABLE_POLICY_ALLOW,
    UnavailablePolicy.DENY: quota_pb2.UNAVAILABLE_POLICY_DENY,
}
_KINDS_FROM_PB = {value: kind for kind, value in KINDS.items()}
_SCOPE_KINDS_FROM_PB = {value: kind for kind, value in SCOPE_KINDS.items()} | {
    quota_pb2.LIMIT_SCOPE_KIND_UNSPECIFIED: ScopeKind.ORGANIZATION
}
_STYLES_FROM_PB = {value: style for style, value in _STYLES.items()} | {
    quota_pb2.WINDOW_STYLE_UNSPECIFIED: WindowStyle.FIXED
}
_POLICIES_FROM_PB = {value: policy for policy, value in _POLICIES.items()} | {
    quota_pb2.UNAVAILABLE_POLICY_UNSPECIFIED: UnavailablePolicy.ALLOW
}


def change_request_from_pb(request_id: str, content: Message) -> ChangeRequest:
    """The request as it was sent: what the server fills in is not part of its digest."""
    sent = f"{content.DESCRIPTOR.full_name}\n".encode() + content.SerializeToString(deterministic=True)
    return ChangeRequest(request_id=request_id, digest=hashlib.sha256(sent).digest(), actor=current_actor())


def limit_from_pb(message: quota_pb2.Limit) -> Limit:
    """The limit. Raises InvalidField for what the domain has no word for."""
    kind = _KINDS_FROM_PB.get(message.kind)
    if kind is None:
        raise InvalidField(field="limit.kind", problem="required, one of LIMIT_KIND")
    window = None
    if message.HasField("window"):
        style = _STYLES_FROM_PB.get(message.window_style)
        if style is None:
            raise InvalidField(field="limit.window_style", problem=f"unknown value {message.window_style}")
        window = Window(_length_us(message.window), style)
    elif message.window_style != quota_pb2.WINDOW_STYLE_UNSPECIFIED:
        raise InvalidField(field="limit.window_style", problem="only with a window")
    on_unavailable = _POLICIES_FROM_PB.get(message.on_unavailable)
    if on_unavailable is None:
        raise InvalidField(field="limit.on_unavailable", problem=f"unknown value {message.on_unavailable}")
    return Limit(
        limit_id=message.limit_id,
        scope=_scope_from_pb(message.scope) if message.HasField("scope") else WHOLE_ORGANIZATION,
        meter=message.meter,
        kind=kind,
        value=message.value if message.HasField("value") else None,
        grace_percent=message.grace_percent if message.HasField("grace_percent") else _GRACE_PERCENT_DEFAULT[kind],
        window=window,
        on_unavailable=on_unavailable,
        shadow=message.shadow,
    )


def _scope_from_pb(message: quota_pb2.LimitScope) -> LimitScope:
    level = _SCOPE_KINDS_FROM_PB.get(message.kind)
    if level is None:
        raise InvalidField(field="limit.scope.kind", problem=f"unknown value {message.kind}")
    return LimitScope(level, message.id if message.HasField("id") else None)


def _length_us(duration: Duration) -> int:
    # Only whole seconds are windows; of the rest it is enough that they are none.
    return duration.seconds * _MICROSECONDS + (1 if duration.nanos else 0)


def limit_to_pb(limit: Limit, organization_id: str) -> quota_pb2.Limit:
    """The limit, with all that it had by default."""
    message = quota_pb2.Limit(
        limit_id=limit.limit_id,
        organization_id=organization_id,
        scope=quota_pb2.LimitScope(kind=SCOPE_KINDS[limit.scope.kind], id=limit.scope.id),
        meter=limit.meter,
        kind=KINDS[limit.kind],
        value=limit.value,
        grace_percent=limit.grace_percent,
        on_unavailable=_POLICIES[limit.on_unavailable],
        shadow=limit.shadow,
    )
    if limit.window is not None:
        message.window.FromMicroseconds(limit.window.length_us)
        message.window_style = _STYLES[limit.window.style]
    return message


def page_to_pb(page: LimitPage, organization_id: str) -> quota_pb2.ListLimitsResponse:
    """A page of limits."""
    return quota_pb2.ListLimitsResponse(
        limits=[limit_to_pb(limit, organization_id) for limit in page.limits],
        next_page_token=base64.urlsafe_b64encode(page.next_after.encode()).decode(),
    )


def after_from_token(token: str) -> str:
    """After which limit a page begins. Raises InvalidField."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError as error:  # of either decoding
        raise InvalidField(field="page_token", problem="not one that this method gave out") from error
