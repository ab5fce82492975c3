"""Coupons, which are the operator's, and what an organization has redeemed of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.billing.domain.coupons import Coupon, CouponStanding, Redemption


class Coupons(Protocol):
    """All coupons."""

    async def get(self, coupon_id: str) -> CouponStanding:
        """One coupon. Raises NotFound."""
        ...

    async def by_id(self, *, after: str, count: int) -> Sequence[CouponStanding]:
        """Up to `count` coupons by id, from the first one after `after`."""
        ...

    async def create(self, coupon: Coupon, *, request_id: str, digest: bytes, actor: str) -> CouponStanding:
        """Adds a sound coupon. The same request again answers it as it is now. Raises AlreadyExists when there was one
        of that id, and RequestIdReused.
        """
        ...

    async def withdraw(self, coupon_id: str, *, request_id: str, digest: bytes, actor: str) -> CouponStanding:
        """Makes that it is redeemed no more; who has it keeps it. Again is no change. Raises NotFound and
        RequestIdReused.
        """
        ...


class CouponReader(Protocol):
    """The redeemed coupons in one organization's books."""

    async def redemptions(self) -> Sequence[Redemption]:
        """All that were ever redeemed, oldest first."""
        ...


class CouponBook(CouponReader, Protocol):
    """The same, open for writing. Each call that changes something is an entry of the change log."""

    async def redeem(self, redemption: Redemption, *, actor: str, request_id: str) -> None:
        """Redeems a coupon, unless its cap is reached or it was withdrawn meanwhile: then it raises InvalidState. Who
        redeems one coupon at once takes turns until their books close, so it is to be called late. Raises
        AlreadyExists when the organization has redeemed it before.
        """
        ...

    async def end(self, redemption_id: str, *, at: datetime, actor: str, request_id: str) -> Redemption:
        """Ends a redemption: what begins from then on is not discounted. One that was ended stays as it is. Raises
        NotFound.
        """
        ...
