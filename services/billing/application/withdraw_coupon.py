"""Withdraw coupon: makes that it is redeemed no more."""

from __future__ import annotations

from services.billing.application.ports.coupons import Coupons
from services.billing.domain.coupons import CouponStanding
from services.billing.domain.requests import request_digest, require_request_id


class WithdrawCoupon:
    """Withdraws a coupon."""

    def __init__(self, coupons: Coupons) -> None:
        self._coupons = coupons

    async def __call__(self, coupon_id: str, *, request_id: str, actor: str) -> CouponStanding:
        """The coupon, withdrawn; who has redeemed it keeps it. Idempotent. Raises NotFound and RequestIdReused."""
        require_request_id(request_id)
        digest = request_digest("WithdrawCoupon", coupon_id)
        return await self._coupons.withdraw(coupon_id, request_id=request_id, digest=digest, actor=actor)
