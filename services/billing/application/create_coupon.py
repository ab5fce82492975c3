"""Create coupon: what customers may redeem."""

from __future__ import annotations

from kit.clock import unix_microseconds
from kit.money import format_decimal
from services.billing.application.ports.coupons import Coupons
from services.billing.domain.coupons import Coupon, CouponStanding, require_coupon
from services.billing.domain.requests import request_digest, require_request_id


class CreateCoupon:
    """Makes a coupon."""

    def __init__(self, coupons: Coupons) -> None:
        self._coupons = coupons

    async def __call__(self, coupon: Coupon, *, request_id: str, actor: str) -> CouponStanding:
        """The coupon. Idempotent: the same request again answers it as it is then. Raises InvalidField, LimitExceeded,
        AlreadyExists for an id that there is, and RequestIdReused.
        """
        require_request_id(request_id)
        digest = request_digest("CreateCoupon", _content(coupon))
        require_coupon(coupon)
        return await self._coupons.create(coupon, request_id=request_id, digest=digest, actor=actor)


def _content(coupon: Coupon) -> list[object]:
    return [
        coupon.coupon_id,
        coupon.display_name,
        coupon.duration.value,
        coupon.month_count,
        None if coupon.percent is None else format_decimal(coupon.percent),
        [[each.minor, each.currency_code] for each in coupon.amounts],
        sorted(each.value for each in coupon.categories),
        sorted(coupon.plan_ids),
        coupon.redemptions_max,
        None if coupon.redeem_by is None else unix_microseconds(coupon.redeem_by),
    ]
