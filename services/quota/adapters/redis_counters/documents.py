"""What Redis keeps for us unread: JSON that Python alone writes and reads, because Lua's would round integers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from services.quota.domain.checks import Applied
from services.quota.domain.entitlements import Entitlement, Period, Standing
from services.quota.domain.limits import (
    Counter,
    Limit,
    LimitKind,
    LimitScope,
    Scope,
    ScopeKind,
    UnavailablePolicy,
    Window,
    WindowStyle,
)


def entitlement_to_document(entitlement: Entitlement) -> str:
    """The entitlement as compact JSON."""
    return _compact(
        {
            "organization_id": entitlement.organization_id,
            "version": entitlement.version,
            "plan_id": entitlement.plan_id,
            "standing": entitlement.standing.value,
            "period": [entitlement.period.start_us, entitlement.period.end_us],
            "limits": [limit_to_list(limit) for limit in entitlement.limits],
        }
    )


def entitlement_from_document(document: bytes | str) -> Entitlement:
    """The entitlement again."""
    fields = json.loads(document)
    return Entitlement(
        organization_id=fields["organization_id"],
        version=fields["version"],
        plan_id=fields["plan_id"],
        standing=Standing(fields["standing"]),
        period=Period(*fields["period"]),
        limits=tuple(limit_from_list(limit) for limit in fields["limits"]),
    )


def limits_to_document(limits: Iterable[Limit]) -> str:
    """Limits as compact JSON."""
    return _compact([limit_to_list(limit) for limit in limits])


def limits_from_document(document: bytes | str) -> tuple[Limit, ...]:
    """The same again."""
    return tuple(limit_from_list(limit) for limit in json.loads(document))


def decided_by_to_document(version: int, period: Period, applied: Iterable[Applied]) -> str:
    """What a check was decided by: kept with its record, so that its first answer can be given again."""
    limits = [[each.counter.scope.kind.value, each.counter.scope.id, *limit_to_list(each.limit)] for each in applied]
    return _compact([version, period.start_us, period.end_us, limits])


def decided_by_from_document(document: bytes | str) -> tuple[int, Period, tuple[Applied, ...]]:
    """The same again."""
    version, start_us, end_us, limits = json.loads(document)
    applied: list[Applied] = []
    for level, scope_id, *fields in limits:
        limit = limit_from_list(fields)
        applied.append(Applied(limit, Counter(Scope(ScopeKind(level), scope_id), limit.meter)))
    return version, Period(start_us, end_us), tuple(applied)


def limit_to_list(limit: Limit) -> list[str | int | None]:
    """The limit as a list of plain values."""
    return [
        limit.limit_id,
        limit.scope.kind.value,
        limit.scope.id,
        limit.meter,
        limit.kind.value,
        limit.value,
        limit.grace_percent,
        None if limit.window is None else limit.window.length_us,
        None if limit.window is None else limit.window.style.value,
        limit.on_unavailable.value,
        int(limit.shadow),
    ]


def limit_from_list(fields: list[Any]) -> Limit:
    """The limit again."""
    limit_id, level, scope_id, meter, kind, value, grace_percent, *more = fields
    # Written before there were windows: a limit of the whole organization.
    length_us, style, on_unavailable, shadow = more or (None, None, UnavailablePolicy.ALLOW.value, 0)
    return Limit(
        limit_id,
        LimitScope(ScopeKind(level), scope_id or None),
        meter,
        LimitKind(kind),
        value,
        grace_percent,
        None if length_us is None else Window(length_us, WindowStyle(style)),
        UnavailablePolicy(on_unavailable),
        bool(shadow),
    )


def _compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)
