"""Coupons and redemptions on the wire and in the domain."""

from __future__ import annotations

from kit.errors import InvalidField
from kit.grpc.convert import moment_from_pb, moment_to_pb
from kit.money import format_decimal, parse_decimal
from services.billing.domain.coupons import Coupon, CouponDuration, CouponStanding, DiscountCategory, Redemption
from services.billing.rpc.convert_amounts import money_from_pb
from tollbook.billing.v1 import coupons_pb2

_DURATIONS = {
    coupons_pb2.COUPON_DURATION_ONCE: CouponDuration.ONCE,
    coupons_pb2.COUPON_DURATION_MONTHS: CouponDuration.MONTHS,
    coupons_pb2.COUPON_DURATION_FOREVER: CouponDuration.FOREVER,
}
_CATEGORIES = {
    coupons_pb2.DISCOUNT_CATEGORY_BASE: DiscountCategory.BASE,
    coupons_pb2.DISCOUNT_CATEGORY_USAGE: DiscountCategory.USAGE,
}


def coupon_from_pb(message: coupons_pb2.Coupon) -> Coupon:
    """The coupon as written, its categories filled in where there are none. Raises InvalidField."""
    if message.duration not in _DURATIONS:
        raise InvalidField(field="coupon.duration", problem="required")
    if not all(each in _CATEGORIES for each in message.categories):
        raise InvalidField(field="coupon.categories", problem="unknown")
    try:
        percent = parse_decimal(message.percent) if message.percent else None
    except ValueError as error:
        raise InvalidField(field="coupon.percent", problem=str(error)) from None
    amounts = [money_from_pb(each.amount, each.currency_code, "coupon.amounts") for each in message.amounts]
    everything = frozenset({DiscountCategory.BASE}) if amounts else frozenset(DiscountCategory)
    has_end = message.HasField("redeem_by_time")
    return Coupon(
        coupon_id=message.coupon_id,
        display_name=message.display_name,
        duration=_DURATIONS[message.duration],
        month_count=message.month_count,
        percent=percent,
        amounts=tuple(sorted(amounts, key=lambda each: each.currency_code)),
        categories=frozenset(_CATEGORIES[each] for each in message.categories) or everything,
        plan_ids=frozenset(message.plan_ids),
        redemptions_max=message.redemptions_max if message.HasField("redemptions_max") else None,
        redeem_by=moment_from_pb(message.redeem_by_time, "coupon.redeem_by_time") if has_end else None,
    )


def coupon_to_pb(standing: CouponStanding) -> coupons_pb2.Coupon:
    """The coupon, and how it is doing."""
    coupon = standing.coupon
    categories = [f"DISCOUNT_CATEGORY_{each.value}" for each in coupon.categories]
    return coupons_pb2.Coupon(
        coupon_id=coupon.coupon_id,
        display_name=coupon.display_name,
        duration=coupons_pb2.CouponDuration.Value(f"COUPON_DURATION_{coupon.duration.value}"),
        month_count=coupon.month_count,
        percent="" if coupon.percent is None else format_decimal(coupon.percent),
        amounts=[
            coupons_pb2.CouponAmount(amount=str(each), currency_code=each.currency_code) for each in coupon.amounts
        ],
        categories=sorted(map(coupons_pb2.DiscountCategory.Value, categories)),
        plan_ids=sorted(coupon.plan_ids),
        redemptions_max=coupon.redemptions_max,
        redeem_by_time=None if coupon.redeem_by is None else moment_to_pb(coupon.redeem_by),
        redemption_count=standing.redemption_count,
        is_withdrawn=standing.is_withdrawn,
    )


def redemption_to_pb(redemption: Redemption) -> coupons_pb2.Redemption:
    """The redemption."""
    stop = redemption.stop_time
    return coupons_pb2.Redemption(
        redemption_id=redemption.redemption_id,
        coupon_id=redemption.coupon.coupon_id,
        display_name=redemption.coupon.display_name,
        start_time=moment_to_pb(redemption.start_time),
        stop_time=None if stop is None else moment_to_pb(stop),
        redeem_time=moment_to_pb(redemption.redeem_time),
    )
