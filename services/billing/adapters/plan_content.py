"""What a plan's version keeps, as JSON. Versions are never rewritten, so every form that was ever written is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from kit.money import Money, format_decimal, parse_decimal
from services.billing.domain.catalog import Interval, LimitKind, Plan, PlanMeter, PriceBook, per_unit_charge
from services.billing.domain.prices import (
    Charge,
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Price,
    Tier,
    Volume,
)


def plan_to_content(plan: Plan) -> str:
    """Everything but its id and version."""
    return json.dumps(
        {
            "display_name": plan.display_name,
            "interval": plan.interval.value,
            "trial_days": plan.trial_days,
            "meters": [
                {
                    "meter": each.meter,
                    "limit_kind": each.limit_kind.value,
                    "limit_quantity": each.limit_quantity,
                    "grace_percent": each.grace_percent,
                    "included_quantity": each.included_quantity,
                }
                for each in plan.meters
            ],
            "price_books": [_book_to_content(book) for book in plan.price_books],
            "features": dict(plan.features),
        }
    )


def plan_from_content(plan_id: str, version: int, content: Mapping[str, Any]) -> Plan:
    """The plan that was kept."""
    if "price_books" not in content:
        return _plan_from_first_form(plan_id, version, content)
    return Plan(
        plan_id=plan_id,
        version=version,
        display_name=content["display_name"],
        interval=Interval(content["interval"]),
        trial_days=content["trial_days"],
        meters=tuple(
            PlanMeter(
                meter=each["meter"],
                limit_kind=LimitKind(each["limit_kind"]),
                limit_quantity=each["limit_quantity"],
                grace_percent=each["grace_percent"],
                included_quantity=each["included_quantity"],
            )
            for each in content["meters"]
        ),
        price_books=tuple(_book_from_content(book) for book in content["price_books"]),
        features=content["features"],
    )


def _plan_from_first_form(plan_id: str, version: int, content: Mapping[str, Any]) -> Plan:
    # Of the time when a plan had one price a meter, in one currency.
    price = Money.parse(content["monthly_price"], content["currency_code"])
    charged = {each["meter"]: each for each in content["meters"] if each["overage_unit_price"] is not None}
    return Plan(
        plan_id=plan_id,
        version=version,
        display_name=content["display_name"],
        meters=tuple(
            PlanMeter(
                meter=each["meter"],
                limit_kind=LimitKind(each["limit_kind"]),
                limit_quantity=each["limit_quantity"],
                grace_percent=each["grace_percent"],
                included_quantity=0 if each["meter"] in charged else each["included_quantity"],
            )
            for each in content["meters"]
        ),
        price_books=(
            PriceBook(
                currency_code=price.currency_code,
                base_price=price,
                charges=tuple(
                    per_unit_charge(
                        meter,
                        included_quantity=each["included_quantity"],
                        unit_price=parse_decimal(each["overage_unit_price"]),
                    )
                    for meter, each in charged.items()
                ),
            ),
        ),
        features=content["features"],
    )


def _book_to_content(book: PriceBook) -> dict[str, Any]:
    return {
        "currency_code": book.currency_code,
        "base_price": str(book.base_price),
        "minimum": None if book.minimum is None else str(book.minimum),
        "charges": [
            {
                "charge_id": charge.charge_id,
                "display_name": charge.display_name,
                "meter": charge.meter,
                "included_quantity": charge.included_quantity,
                "price": _price_to_content(charge.price),
            }
            for charge in book.charges
        ],
    }


def _book_from_content(content: Mapping[str, Any]) -> PriceBook:
    currency_code, minimum = content["currency_code"], content["minimum"]
    return PriceBook(
        currency_code=currency_code,
        base_price=Money.parse(content["base_price"], currency_code),
        minimum=None if minimum is None else Money.parse(minimum, currency_code),
        charges=tuple(
            Charge(
                charge_id=each["charge_id"],
                display_name=each["display_name"],
                meter=each["meter"],
                included_quantity=each["included_quantity"],
                price=_price_from_content(each["price"]),
            )
            for each in content["charges"]
        ),
    )


def _price_to_content(price: Price) -> dict[str, Any]:
    match price:
        case FlatFee(amount):
            return {"kind": "FLAT_FEE", "amount": format_decimal(amount)}
        case PerUnit(unit_price):
            return {"kind": "PER_UNIT", "unit_price": format_decimal(unit_price)}
        case Graduated(tiers):
            return {"kind": "GRADUATED", "tiers": [_tier_to_content(tier) for tier in tiers]}
        case Volume(tiers):
            return {"kind": "VOLUME", "tiers": [_tier_to_content(tier) for tier in tiers]}
        case Package(size=size, price=amount):
            return {"kind": "PACKAGE", "size": size, "price": format_decimal(amount)}
        case Percentage(percent=percent, exchange_rate=rate):
            exchange_rate = None if rate is None else format_decimal(rate)
            return {"kind": "PERCENTAGE", "percent": format_decimal(percent), "exchange_rate": exchange_rate}


def _price_from_content(content: Mapping[str, Any]) -> Price:
    def decimal(name: str) -> Decimal:
        return parse_decimal(content[name])

    match content["kind"]:
        case "FLAT_FEE":
            return FlatFee(decimal("amount"))
        case "PER_UNIT":
            return PerUnit(decimal("unit_price"))
        case "GRADUATED":
            return Graduated(tuple(_tier_from_content(tier) for tier in content["tiers"]))
        case "VOLUME":
            return Volume(tuple(_tier_from_content(tier) for tier in content["tiers"]))
        case "PACKAGE":
            return Package(size=content["size"], price=decimal("price"))
        case "PERCENTAGE":
            exchange_rate = None if content["exchange_rate"] is None else decimal("exchange_rate")
            return Percentage(percent=decimal("percent"), exchange_rate=exchange_rate)
        case other:
            # Never a guess: this version of billing is older than the catalog.
            msg = f"a price of kind {other!r} is not known here"
            raise ValueError(msg)


def _tier_to_content(tier: Tier) -> dict[str, Any]:
    return {
        "up_to": tier.up_to,
        "unit_price": format_decimal(tier.unit_price),
        "flat_price": format_decimal(tier.flat_price),
    }


def _tier_from_content(content: Mapping[str, Any]) -> Tier:
    return Tier(
        up_to=content["up_to"],
        unit_price=parse_decimal(content["unit_price"]),
        flat_price=parse_decimal(content["flat_price"]),
    )
