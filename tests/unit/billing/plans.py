"""The plans and meters that tests of billing sell."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from kit.money import Money
from services.billing.domain.catalog import LimitKind, Meter, Plan, PlanMeter

MINUTE = 60_000

AGENT_MINUTES = Meter(name="agent_minutes", display_unit="minute", base_units_per_display_unit=MINUTE)
API_CALLS = Meter(name="api_calls", display_unit="call", base_units_per_display_unit=1)
CONCURRENT_AGENTS = Meter(name="concurrent_agents", display_unit="agent", base_units_per_display_unit=1)
METERS = {meter.name: meter for meter in (AGENT_MINUTES, API_CALLS, CONCURRENT_AGENTS)}

_MINUTES = PlanMeter(
    meter="agent_minutes",
    limit_kind=LimitKind.PERIOD,
    limit_quantity=1_000 * MINUTE,
    grace_percent=10,
    included_quantity=1_000 * MINUTE,
    overage_unit_price=Decimal("0.05"),
)
_AGENTS = PlanMeter(
    meter="concurrent_agents",
    limit_kind=LimitKind.CONCURRENCY,
    limit_quantity=5,
    grace_percent=0,
    included_quantity=0,
    overage_unit_price=None,
)

STARTER = Plan(
    plan_id="starter",
    version=0,
    display_name="Starter",
    monthly_price=Money(4900, "USD"),
    meters=(_MINUTES, _AGENTS),
    features={"exports": True},
)
FREE = Plan(
    plan_id="free",
    version=0,
    display_name="Free",
    monthly_price=Money(0, "USD"),
    meters=(
        replace(
            _MINUTES,
            limit_quantity=100 * MINUTE,
            included_quantity=100 * MINUTE,
            grace_percent=0,
            overage_unit_price=None,
        ),
        replace(_AGENTS, limit_quantity=1),
    ),
    features={},
)
ENTERPRISE = Plan(
    plan_id="enterprise",
    version=0,
    display_name="Enterprise",
    monthly_price=Money(49900, "USD"),
    meters=(
        replace(_MINUTES, limit_quantity=None, included_quantity=0, grace_percent=0),
        replace(_AGENTS, limit_quantity=None),
    ),
    features={"exports": True, "sso": True},
)
PLANS = (FREE, STARTER, ENTERPRISE)
