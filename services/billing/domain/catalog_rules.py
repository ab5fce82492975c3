"""What a catalog must be like before it is sold."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from kit.money import Money, UnknownCurrency, parse_decimal
from services.billing.domain import limits
from services.billing.domain.catalog import FREE_PLAN, LimitKind, Plan, PlanMeter, PriceBook, per_unit_charge
from services.billing.domain.errors import InvalidCatalog
from services.billing.domain.prices import Charge

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
    for book in plan.price_books:
        if book.base_price.minor:
            raise InvalidCatalog(plan_id=plan.plan_id, field="monthly_price", problem="must be 0 on this plan")
        for charge in book.charges:
            field = f"meters[{charge.meter}].overage_unit_price"
            problem = "must be empty: this plan is never billed"
            raise InvalidCatalog(plan_id=plan.plan_id, field=field, problem=problem)


def _read_plan(text: PlanText, known_meters: Container[str]) -> Plan:
    plan_id, name = text.plan_id, text.display_name
    _require(bool(_NAME.fullmatch(plan_id)), plan_id[:64], "plan_id", "1 to 64 lower-case letters, digits or `_`")
    named = 0 < len(name.encode()) <= limits.DISPLAY_NAME_BYTES_MAX and name.isprintable()
    _require(named, plan_id, "display_name", f"1 to {limits.DISPLAY_NAME_BYTES_MAX} bytes of printable text")
    _require(len(text.meters) <= limits.PLAN_METERS_MAX, plan_id, "meters", f"more than {limits.PLAN_METERS_MAX}")
    _require(
        len(text.features) <= limits.PLAN_FEATURES_MAX, plan_id, "features", f"more than {limits.PLAN_FEATURES_MAX}"
    )
    for feature in text.features:
        problem = f"{feature[:64]!r} is not 1 to 64 lower-case letters, digits or `_`"
        _require(bool(_NAME.fullmatch(feature)), plan_id, "features", problem)
    meters: dict[str, PlanMeter] = {}
    charges: dict[str, Charge] = {}
    for each in text.meters:
        _require(each.meter not in meters, plan_id, f"meters[{each.meter}]", "appears twice")
        meters[each.meter] = _read_meter(plan_id, each, known_meters)
        price = _read_overage_price(plan_id, each)
        if price is not None:
            charges[each.meter] = per_unit_charge(
                each.meter, included_quantity=each.included_quantity, unit_price=price
            )
    monthly_price = _read_monthly_price(text)
    book = PriceBook(
        currency_code=monthly_price.currency_code,
        base_price=monthly_price,
        charges=tuple(charges[meter] for meter in sorted(charges)),
    )
    return Plan(
        plan_id=plan_id,
        version=0,
        display_name=name,
        meters=tuple(meters[meter] for meter in sorted(meters)),
        price_books=(book,),
        features=dict(sorted(text.features.items())),
    )


def _read_monthly_price(text: PlanText) -> Money:
    try:
        price = Money.parse(text.monthly_price, text.currency_code)
    except UnknownCurrency:
        problem = f"{text.currency_code[:8]!r} is not a currency that can be billed"
        raise InvalidCatalog(plan_id=text.plan_id, field="currency_code", problem=problem) from None
    except ValueError as error:
        raise InvalidCatalog(plan_id=text.plan_id, field="monthly_price", problem=str(error)) from None
    in_range = 0 <= parse_decimal(text.monthly_price) <= limits.PRICE_MAX
    _require(in_range, text.plan_id, "monthly_price", f"not in 0 to {limits.PRICE_MAX}")
    return price


def _read_meter(plan_id: str, text: PlanMeterText, known_meters: Container[str]) -> PlanMeter:
    def require(sound: bool, field: str, problem: str) -> None:  # noqa: FBT001 - the condition itself, not a flag
        _require(sound, plan_id, f"meters[{text.meter[:64]}].{field}", problem)

    limit = text.limit_quantity
    require(text.meter in known_meters, "meter", "is not a meter")
    if text.limit_kind is None:
        raise InvalidCatalog(plan_id=plan_id, field=f"meters[{text.meter}].limit_kind", problem="must be said")
    require(limit is None or 0 <= limit <= limits.QUANTITY_MAX, "limit_quantity", "not in 0 to 2^53 - 1")
    in_range = 0 <= text.grace_percent <= limits.GRACE_PERCENT_MAX
    require(in_range, "grace_percent", f"not in 0 to {limits.GRACE_PERCENT_MAX}")
    require(0 <= text.included_quantity <= limits.QUANTITY_MAX, "included_quantity", "not in 0 to 2^53 - 1")
    if text.limit_kind is LimitKind.CONCURRENCY:
        # What is held at once is not used up, so there is nothing of it to include or to charge.
        require(not text.included_quantity, "included_quantity", "must be 0 with a concurrency limit")
        require(not text.overage_unit_price, "overage_unit_price", "must be empty with a concurrency limit")
    return PlanMeter(
        meter=text.meter,
        limit_kind=text.limit_kind,
        limit_quantity=text.limit_quantity,
        grace_percent=text.grace_percent,
        included_quantity=0 if text.overage_unit_price else text.included_quantity,
    )


def _read_overage_price(plan_id: str, text: PlanMeterText) -> Decimal | None:
    if not text.overage_unit_price:
        return None
    field = f"meters[{text.meter}].overage_unit_price"
    try:
        price = parse_decimal(text.overage_unit_price)
    except ValueError as error:
        raise InvalidCatalog(plan_id=plan_id, field=field, problem=str(error)) from None
    _require(0 <= price <= limits.PRICE_MAX, plan_id, field, f"not in 0 to {limits.PRICE_MAX}")
    return price


def _require(sound: bool, plan_id: str, field: str, problem: str) -> None:  # noqa: FBT001 - the condition itself
    if not sound:
        raise InvalidCatalog(plan_id=plan_id, field=field, problem=problem)
