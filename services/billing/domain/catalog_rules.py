"""What a catalog must be like before it is sold."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from kit.money import Money, UnknownCurrency, currency_exponent, parse_decimal
from services.billing.domain import limits
from services.billing.domain.catalog import FREE_PLAN, LimitKind, Plan, PlanMeter
from services.billing.domain.errors import InvalidCatalog

_NAME = re.compile(r"[a-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMeterText:
    """How a plan treats one meter, as written."""

    meter: str
    limit_kind: LimitKind | None
    limit_quantity: int | None
    grace_percent: int
    included_quantity: int
    overage_unit_price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanText:
    """A plan as written: prices are still text."""

    plan_id: str
    display_name: str
    monthly_price: str
    currency_code: str
    meters: tuple[PlanMeterText, ...]
    features: Mapping[str, bool]


def read_catalog(texts: Sequence[PlanText], known_meters: Container[str]) -> tuple[Plan, ...]:
    """The plans that the texts describe, of version 0. Raises InvalidCatalog naming the first plan and field that
    break a rule.
    """
    if len(texts) > limits.PLANS_MAX:
        raise InvalidCatalog(plan_id="", field="plans", problem=f"more than {limits.PLANS_MAX}")
    plans = [_read_plan(text, known_meters) for text in texts]
    seen: set[str] = set()
    for plan in plans:
        if plan.plan_id in seen:
            raise InvalidCatalog(plan_id=plan.plan_id, field="plan_id", problem="appears twice")
        seen.add(plan.plan_id)
        if plan.plan_id == FREE_PLAN:
            _require_free_of_charge(plan)
    if FREE_PLAN not in seen:
        raise InvalidCatalog(plan_id=FREE_PLAN, field="plan_id", problem="must be in the catalog")
    return tuple(plans)


def _require_free_of_charge(plan: Plan) -> None:
    if plan.monthly_price.minor:
        raise InvalidCatalog(plan_id=plan.plan_id, field="monthly_price", problem="must be 0 on this plan")
    for each in plan.meters:
        if each.overage_unit_price is not None:
            field = f"meters[{each.meter}].overage_unit_price"
            raise InvalidCatalog(plan_id=plan.plan_id, field=field, problem="must be empty: this plan is never billed")


def _read_plan(text: PlanText, known_meters: Container[str]) -> Plan:
    def refuse(field: str, problem: str) -> InvalidCatalog:
        return InvalidCatalog(plan_id=text.plan_id[:64], field=field, problem=problem)

    if not _NAME.fullmatch(text.plan_id):
        raise refuse("plan_id", "1 to 64 lower-case letters, digits or `_`")
    name = text.display_name
    if not name or len(name.encode()) > limits.DISPLAY_NAME_BYTES_MAX or not name.isprintable():
        raise refuse("display_name", f"1 to {limits.DISPLAY_NAME_BYTES_MAX} bytes of printable text")
    try:
        currency_exponent(text.currency_code)
    except UnknownCurrency:
        raise refuse("currency_code", f"{text.currency_code[:8]!r} is not a currency that can be billed") from None
    try:
        monthly_price = Money.parse(text.monthly_price, text.currency_code)
        in_range = 0 <= parse_decimal(text.monthly_price) <= limits.PRICE_MAX
    except ValueError as error:
        raise refuse("monthly_price", str(error)) from None
    if not in_range:
        raise refuse("monthly_price", f"not in 0 to {limits.PRICE_MAX}")
    if len(text.meters) > limits.PLAN_METERS_MAX:
        raise refuse("meters", f"more than {limits.PLAN_METERS_MAX}")
    meters: dict[str, PlanMeter] = {}
    for each in text.meters:
        if each.meter in meters:
            raise refuse(f"meters[{each.meter}]", "appears twice")
        meters[each.meter] = _read_meter(text.plan_id, each, known_meters)
    if len(text.features) > limits.PLAN_FEATURES_MAX:
        raise refuse("features", f"more than {limits.PLAN_FEATURES_MAX}")
    for feature in text.features:
        if not _NAME.fullmatch(feature):
            raise refuse("features", f"{feature[:64]!r} is not 1 to 64 lower-case letters, digits or `_`")
    return Plan(
        plan_id=text.plan_id,
        version=0,
        display_name=name,
        monthly_price=monthly_price,
        meters=tuple(meters[meter] for meter in sorted(meters)),
        features=dict(sorted(text.features.items())),
    )


def _read_meter(plan_id: str, text: PlanMeterText, known_meters: Container[str]) -> PlanMeter:
    def refuse(field: str, problem: str) -> InvalidCatalog:
        return InvalidCatalog(plan_id=plan_id, field=f"meters[{text.meter[:64]}].{field}", problem=problem)

    if text.meter not in known_meters:
        raise refuse("meter", "is not a meter")
    if text.limit_kind is None:
        raise refuse("limit_kind", "must say how the limit counts")
    if text.limit_quantity is not None and not 0 <= text.limit_quantity <= limits.QUANTITY_MAX:
        raise refuse("limit_quantity", "not in 0 to 2^53 - 1")
    if not 0 <= text.grace_percent <= limits.GRACE_PERCENT_MAX:
        raise refuse("grace_percent", f"not in 0 to {limits.GRACE_PERCENT_MAX}")
    if not 0 <= text.included_quantity <= limits.QUANTITY_MAX:
        raise refuse("included_quantity", "not in 0 to 2^53 - 1")
    # What is held at once is not used up, so there is nothing of it to include or to charge.
    if text.limit_kind is LimitKind.CONCURRENCY and text.included_quantity:
        raise refuse("included_quantity", "must be 0 with a concurrency limit")
    if text.limit_kind is LimitKind.CONCURRENCY and text.overage_unit_price:
        raise refuse("overage_unit_price", "must be empty with a concurrency limit")
    overage_unit_price: Decimal | None = None
    if text.overage_unit_price:
        try:
            overage_unit_price = parse_decimal(text.overage_unit_price)
        except ValueError as error:
            raise refuse("overage_unit_price", str(error)) from None
        if not 0 <= overage_unit_price <= limits.PRICE_MAX:
            raise refuse("overage_unit_price", f"not in 0 to {limits.PRICE_MAX}")
    return PlanMeter(
        meter=text.meter,
        limit_kind=text.limit_kind,
        limit_quantity=text.limit_quantity,
        grace_percent=text.grace_percent,
        included_quantity=text.included_quantity,
        overage_unit_price=overage_unit_price,
    )
