"""Examples of what quota deals in, with everything a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from kit.clock import unix_microseconds
from services.quota.domain.checks import Check, Consumption, Mode, Subject
from services.quota.domain.entitlements import Entitlement, Period, Standing
from services.quota.domain.limits import (
    ORGANIZATION,
    Counter,
    Limit,
    LimitKind,
    LimitScope,
    Scope,
    ScopeKind,
    plan_limit,
)
from services.quota.domain.terms import OwnLimits, Terms
from services.quota.domain.usage import UsageEntry

MINUTES, AGENTS, CALLS, LATENCY = "agent_minutes", "concurrent_agents", "api_calls", "provider_latency"
HOUR_US = 3_600_000_000


def counter(meter: str) -> Counter:
    return Counter(ORGANIZATION, meter)


def new_organization_id() -> str:
    return f"org-{uuid4().hex}"


def period_around(moment: datetime, *, days: int = 30) -> Period:
    start = unix_microseconds(moment - timedelta(days=days / 2))
    return Period(start, start + unix_microseconds(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)))


def minutes_limit(value: int | None, *, grace_percent: int = 0) -> Limit:
    return plan_limit(MINUTES, LimitKind.PERIOD, value, grace_percent)


def agents_limit(value: int | None, *, grace_percent: int = 0) -> Limit:
    return plan_limit(AGENTS, LimitKind.CONCURRENCY, value, grace_percent)


def user_limit(
    value: int | None,
    *,
    limit_id: str = "per-user",
    meter: str = MINUTES,
    user_id: str | None = None,
    kind: LimitKind = LimitKind.PERIOD,
) -> Limit:
    """Of each user separately, or of one."""
    return Limit(limit_id, LimitScope(ScopeKind.USER, user_id), meter, kind, value, 0)


def entitlement(
    organization_id: str,
    *limits: Limit,
    version: int = 1,
    period: Period | None = None,
    standing: Standing = Standing.ACTIVE,
    plan_id: str = "starter",
) -> Entitlement:
    return Entitlement(
        organization_id=organization_id,
        version=version,
        plan_id=plan_id,
        standing=standing,
        period=period or period_around(datetime.now(UTC)),
        limits=limits,
    )


def own_limits(organization_id: str, *limits: Limit, sequence: int = 0, commit_id: str = "") -> OwnLimits:
    return OwnLimits(organization_id=organization_id, sequence=sequence, commit_id=commit_id, limits=limits)


def terms(entitled: Entitlement, *limits: Limit, sequence: int = 0, commit_id: str = "") -> Terms:
    """With limits of the organization's own."""
    own = own_limits(entitled.organization_id, *limits, sequence=sequence, commit_id=commit_id)
    return Terms(entitled, own)


def decide_check(
    organization_id: str, quantities: Mapping[str, int | None], *, request_id: str = "", user_id: str = ""
) -> Check:
    return Check(
        request_id=request_id,
        subject=Subject(organization_id=organization_id, user_id=user_id),
        consumptions=tuple(Consumption(meter, quantities[meter]) for meter in sorted(quantities)),
        mode=Mode.DECIDE,
        reserve_us=0,
    )


def reserve_check(
    organization_id: str,
    quantities: Mapping[str, int | None],
    *,
    request_id: str = "r1",
    reserve_us: int = HOUR_US,
    user_id: str = "",
) -> Check:
    return Check(
        request_id=request_id,
        subject=Subject(organization_id=organization_id, user_id=user_id),
        consumptions=tuple(Consumption(meter, quantities[meter]) for meter in sorted(quantities)),
        mode=Mode.RESERVE,
        reserve_us=reserve_us,
    )


def usage_entry(
    quantities: Mapping[str, int],
    *,
    reservation_id: str = "",
    final: bool = False,
    event_time_us: int | None = None,
    sequence: int = 0,
    scopes: tuple[Scope, ...] = (ORGANIZATION,),
) -> UsageEntry:
    return UsageEntry(
        sequence=sequence,
        event_time_us=unix_microseconds(datetime.now(UTC)) if event_time_us is None else event_time_us,
        quantities=tuple(quantities.items()),
        reservation_id=reservation_id,
        reservation_final=final,
        scopes=scopes,
    )
