"""What Redis keeps for us unread: JSON that Python alone writes and reads, because Lua's would round integers."""

from __future__ import annotations

import json
from typing import Any

from services.quota.domain.entitlements import Entitlement, Period, Standing
from services.quota.domain.limits import Counter, Limit, LimitKind, Scope, ScopeKind


def entitlement_to_document(entitlement: Entitlement) -> str:
    """The entitlement as compact JSON."""
    return _compact(
        {
            "organization_id": entitlement.organization_id,
            "version": entitlement.version,
            "plan_id": entitlement.plan_id,
            "standing": entitlement.standing.value,
            "period": [entitlement.period.start_us, entitlement.period.end_us],
            "limits": [_limit_to_list(limit) for limit in entitlement.limits],
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
        limits=tuple(_limit_from_list(limit) for limit in fields["limits"]),
    )


def terms_to_document(version: int, period: Period, limits: tuple[Limit, ...]) -> str:
    """What a reservation was decided by: kept with it, so that its first answer can be given again."""
    return _compact([version, period.start_us, period.end_us, [_limit_to_list(limit) for limit in limits]])


def terms_from_document(document: bytes | str) -> tuple[int, Period, tuple[Limit, ...]]:
    """The same again."""
    version, start_us, end_us, limits = json.loads(document)
    return version, Period(start_us, end_us), tuple(_limit_from_list(limit) for limit in limits)


def _limit_to_list(limit: Limit) -> list[str | int | None]:
    scope = limit.counter.scope
    return [
        limit.limit_id,
        scope.kind.value,
        scope.id,
        limit.counter.meter,
        limit.kind.value,
        limit.value,
        limit.grace_percent,
    ]


def _limit_from_list(fields: list[Any]) -> Limit:
    limit_id, scope_kind, scope_id, meter, kind, value, grace_percent = fields
    counter = Counter(Scope(ScopeKind(scope_kind), scope_id), meter)
    return Limit(limit_id, counter, LimitKind(kind), value, grace_percent)


def _compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)
