"""The terms of a coupon as JSON: numbers are text, so that none becomes a float."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.money import Money, format_decimal
from services.billing.domain.coupons import Coupon, CouponDuration, DiscountCategory


def coupon_to_content(coupon: Coupon) -> dict[str, object]:
    """The terms, without the id."""
    return {
        "display_name": coupon.display_name,
        "duration": coupon.duration.value,
        "month_count": coupon.month_count,
        "percent": None if coupon.percent is None else format_decimal(coupon.percent),
        "amounts": {each.currency_code: str(each.minor) for each in coupon.amounts},
        "categories": sorted(each.value for each in coupon.categories),
        "plan_ids": sorted(coupon.plan_ids),
        "redemptions_max": coupon.redemptions_max,
        "redeem_by_us": None if coupon.redeem_by is None else unix_microseconds(coupon.redeem_by),
    }


def coupon_from_content(coupon_id: str, content: Mapping[str, Any]) -> Coupon:
    """The coupon."""
    return Coupon(
        coupon_id=coupon_id,
        display_name=content["display_name"],
        duration=CouponDuration(content["duration"]),
        month_count=content["month_count"],
        percent=None if content["percent"] is None else Decimal(content["percent"]),
        amounts=tuple(Money(int(minor), code) for code, minor in sorted(content["amounts"].items())),
        categories=frozenset(DiscountCategory(each) for each in content["categories"]),
        plan_ids=frozenset(content["plan_ids"]),
        redemptions_max=content["redemptions_max"],
        redeem_by=None if content["redeem_by_us"] is None else from_unix_microseconds(content["redeem_by_us"]),
    )
