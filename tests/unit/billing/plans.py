"""The plans and meters that tests of billing sell."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from kit.money import Money
from services.billing.domain.catalog import Interval, LimitKind, Plan, PlanMeter, PriceBook, per_unit_charge
from services.billing.domain.meters import Meter
from services.billing.domain.prices import Charge, FlatFee, Graduated, Package, Percentage, PerUnit, Price, Tier, Volume

MINUTE = 60_000

AGENT_MINUTES = Meter(name="agent_minutes", display_unit="minute", base_units_per_display_unit=MINUTE)
API_CALLS = Meter(name="api_calls", display_unit="call", base_units_per_display_unit=1)
CONCURRENT_AGENTS = Meter(name="concurrent_agents", display_unit="agent", base_units_per_display_unit=1)
PROVIDER_COST = Meter(name="provider_cost", display_unit="usd", base_units_per_display_unit=10**9)
TOKENS = tuple(
    Meter(name=name, display_unit="token", base_units_per_display_unit=1)
    for name in ("tokens_output", "tokens_cache_read")
)
METERS = {meter.name: meter for meter in (AGENT_MINUTES, API_CALLS, CONCURRENT_AGENTS, PROVIDER_COST, *TOKENS)}

_MINUTES = PlanMeter(
    meter="agent_minutes", limit_kind=LimitKind.PERIOD, limit_quantity=1_000 * MINUTE, grace_percent=10
)
_AGENTS = PlanMeter(meter="concurrent_agents", limit_kind=LimitKind.CONCURRENCY, limit_quantity=5, grace_percent=0)


def minutes_charge(*, included: int, unit_price: str = "0.05") -> Charge:
    """So much for every agent minute beyond so many."""
    return per_unit_charge("agent_minutes", included_quantity=included * MINUTE, unit_price=Decimal(unit_price))


def book(price: Money, *charges: Charge) -> PriceBook:
    """The price and the charges in its currency."""
    return PriceBook(currency_code=price.currency_code, base_price=price, charges=charges)


def priced(plan: Plan, price: Money, *, unit_price: str | None = None) -> Plan:
    """The plan at another base price, in that one's currency; with unit_price every charge is per unit, at it."""
    charges = plan.default_book.charges
    if unit_price is not None:
        charges = tuple(replace(charge, price=PerUnit(Decimal(unit_price))) for charge in charges)
    return replace(plan, price_books=(book(price, *charges),))


STARTER = Plan(
    plan_id="starter",
    version=0,
    display_name="Starter",
    meters=(_MINUTES, _AGENTS),
    price_books=(book(Money(4900, "USD"), minutes_charge(included=1_000)),),
    features={"exports": True},
)
FREE = Plan(
    plan_id="free",
    version=0,
    display_name="Free",
    meters=(
        replace(_MINUTES, limit_quantity=100 * MINUTE, included_quantity=100 * MINUTE, grace_percent=0),
        replace(_AGENTS, limit_quantity=1),
    ),
    price_books=(book(Money(0, "USD")),),
    features={},
)
ENTERPRISE = Plan(
    plan_id="enterprise",
    version=0,
    display_name="Enterprise",
    meters=(replace(_MINUTES, limit_quantity=None, grace_percent=0), replace(_AGENTS, limit_quantity=None)),
    price_books=(book(Money(49900, "USD"), minutes_charge(included=0)),),
    features={"exports": True, "sso": True},
)
PLANS = (FREE, STARTER, ENTERPRISE)


def _every_price(currency_code: str, *, exchange_rate: Decimal | None) -> PriceBook:
    tiers = (
        Tier(up_to=10_000 * MINUTE, unit_price=Decimal("0.05"), flat_price=Decimal(3)),
        Tier(up_to=None, unit_price=Decimal("0.000000000001")),
    )
    prices: dict[str, Price] = {
        "support": FlatFee(Decimal(20)),
        "minutes": Graduated(tiers),
        "more_minutes": Volume(tiers),
        "calls": Package(size=1_000, price=Decimal("0.5")),
        "more_calls": PerUnit(Decimal(0)),
        "models": Percentage(percent=Decimal("12.5"), exchange_rate=exchange_rate),
    }
    meters = {"minutes": "agent_minutes", "more_minutes": "agent_minutes", "calls": "api_calls",
              "more_calls": "api_calls", "models": "provider_cost"}  # fmt: skip
    return PriceBook(
        currency_code=currency_code,
        base_price=Money(1_200_000, currency_code),
        charges=tuple(
            Charge(
                charge_id=charge_id,
                display_name=charge_id.title(),
                meter=meters.get(charge_id, ""),
                included_quantity=7 if charge_id == "calls" else 0,
                price=price,
            )
            for charge_id, price in prices.items()
        ),
        minimum=Money(5_000, currency_code),
    )


EVERYTHING = Plan(
    plan_id="everything",
    version=0,
    display_name="Everything",
    interval=Interval.YEAR,
    trial_days=14,
    meters=(replace(_MINUTES, limit_quantity=None, grace_percent=0), _AGENTS),
    price_books=(
        _every_price("USD", exchange_rate=None),
        _every_price("JPY", exchange_rate=Decimal("151.5")),
        _every_price("KWD", exchange_rate=Decimal("0.307")),
    ),
    features={"exports": True, "sso": False},
)
"""A plan with every kind of price."""
