"""Coupons in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kit.errors import AlreadyExists, InvalidState, NotFound
from services.billing.adapters.memory.world import World
from services.billing.domain.coupons import Redemption


class MemoryRedemptions:
    """CouponBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]

    async def redemptions(self) -> Sequence[Redemption]:
        """As CouponBook."""
        return sorted(self._pages.redemptions.values(), key=lambda each: (each.redeem_time, each.redemption_id))

    async def redeem(self, redemption: Redemption, *, actor: str, request_id: str) -> None:  # noqa: ARG002
        """As CouponBook."""
        coupon_id = redemption.coupon.coupon_id
        if coupon_id in {each.coupon.coupon_id for each in self._pages.redemptions.values()}:
            raise AlreadyExists(what="redemption of the coupon", name=coupon_id)
        standing = self._world.coupons[coupon_id]
        is_used_up = standing.redemption_count == standing.coupon.redemptions_max
        if standing.is_withdrawn or is_used_up:
            raise InvalidState(problem=f"The coupon {coupon_id!r} was redeemed as often as it may be, or withdrawn.")
        self._world.coupons[coupon_id] = replace(standing, redemption_count=standing.redemption_count + 1)
        self._pages.redemptions[redemption.redemption_id] = redemption
        self._pages.change(None)

    async def end(self, redemption_id: str, *, at: datetime, actor: str, request_id: str) -> Redemption:  # noqa: ARG002
        """As CouponBook."""
        if redemption_id not in self._pages.redemptions:
            raise NotFound(what="redemption", name=redemption_id[:64])
        redemption = self._pages.redemptions[redemption_id]
        if redemption.end_time is None:
            self._pages.redemptions[redemption_id] = replace(redemption, end_time=at)
            self._pages.change(None)
        return self._pages.redemptions[redemption_id]
