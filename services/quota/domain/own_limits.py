"""What a limit of an organization's own may be."""

from __future__ import annotations

import re
from collections.abc import Collection

from kit.errors import InvalidField, LimitExceeded
from services.quota.domain.checks import is_subject_id
from services.quota.domain.limits import PLAN_PREFIX, Limit, LimitKind, ScopeKind
from services.quota.domain.maxima import (
    GRACE_PERCENT_MAX,
    LIMIT_ID_BYTES_MAX,
    OWN_LIMITS_MAX,
    QUANTITY_MAX,
    REQUEST_ID_BYTES_MAX,
    TRACKED_MAX,
)

_LIMIT_ID = re.compile(rf"[A-Za-z0-9_.-]{{1,{LIMIT_ID_BYTES_MAX}}}")
_SECOND_US = 1_000_000
_WINDOWS_US = frozenset({_SECOND_US, 60 * _SECOND_US, 3_600 * _SECOND_US, 86_400 * _SECOND_US})


def require_request_id(request_id: str) -> None:
    """Raises InvalidField unless it is 1 to 128 bytes that can be printed."""
    if not 0 < len(request_id.encode()) <= REQUEST_ID_BYTES_MAX or not request_id.isprintable():
        raise InvalidField(field="request_id", problem=f"required, 1 to {REQUEST_ID_BYTES_MAX} printable bytes")


def require_own_id(limit_id: str) -> None:
    """Raises InvalidField unless a limit of an organization's own can have the id."""
    if limit_id.startswith(PLAN_PREFIX):
        raise InvalidField(field="limit_id", problem=f"`{PLAN_PREFIX}` begins the limits of a plan: change the plan")
    if not _LIMIT_ID.fullmatch(limit_id):
        raise InvalidField(field="limit_id", problem="1 to 128 letters, digits or `_ - .`")


def require_sound(limit: Limit) -> None:
    """Raises InvalidField unless the limit is sound. Its meter is looked up elsewhere."""
    require_own_id(limit.limit_id)
    if limit.scope.id is not None:
        if limit.scope.kind is ScopeKind.ORGANIZATION:
            raise InvalidField(field="limit.scope.id", problem="an organization has no other id; leave it out")
        if not is_subject_id(limit.scope.id):
            raise InvalidField(field="limit.scope.id", problem="1 to 128 letters, digits or `_ - . : @`")
    if limit.value is not None and not 0 <= limit.value <= QUANTITY_MAX:
        raise InvalidField(field="limit.value", problem="not in 0 to 2^53 - 1")
    if not 0 <= limit.grace_percent <= GRACE_PERCENT_MAX:
        raise InvalidField(field="limit.grace_percent", problem=f"not in 0 to {GRACE_PERCENT_MAX}")
    if (limit.kind is LimitKind.WINDOW) != (limit.window is not None):
        raise InvalidField(field="limit.window", problem="required of a window limit, and of no other")
    if limit.window is not None and limit.window.length_us not in _WINDOWS_US:
        raise InvalidField(field="limit.window", problem="not one second, minute, hour or day")


def require_room(limits: Collection[Limit]) -> None:
    """Raises LimitExceeded unless an organization may have all these limits of its own."""
    if len(limits) > OWN_LIMITS_MAX:
        raise LimitExceeded(what="limits of the organization", actual=len(limits), maximum=OWN_LIMITS_MAX)
    tracked = {limit.tracks for limit in limits} - {None}
    if len(tracked) > TRACKED_MAX:
        raise LimitExceeded(
            what="levels and meters of the organization's limits", actual=len(tracked), maximum=TRACKED_MAX
        )
