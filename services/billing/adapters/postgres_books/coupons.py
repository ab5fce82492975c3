"""The coupons that an organization redeemed, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from kit.clock import unix_microseconds
from kit.errors import AlreadyExists, InvalidState, NotFound
from services.billing.adapters.coupon_content import coupon_from_content
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.coupons import Redemption

_REDEEMED = "coupon_redeemed"
_ENDED = "redemption_ended"


class PostgresRedemptions:
    """CouponBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def redemptions(self) -> Sequence[Redemption]:
        """As CouponBook."""
        return [_redemption_from_row(row) for row in await self._page.execute(_REDEMPTIONS, self._page.names())]

    async def redeem(self, redemption: Redemption, *, actor: str, request_id: str) -> None:
        """As CouponBook."""
        coupon_id = redemption.coupon.coupon_id
        names = self._page.names(
            redemption_id=redemption.redemption_id,
            coupon_id=coupon_id,
            start_time=redemption.start_time,
            redeem_time=redemption.redeem_time,
        )
        # Before the coupon is counted: the same organization's second try must not take another's place.
        if not (await self._page.execute(_ADD, names)).rowcount:
            raise AlreadyExists(what="redemption of the coupon", name=coupon_id)
        body = {
            "redemption_id": redemption.redemption_id,
            "coupon_id": coupon_id,
            "start_us": unix_microseconds(redemption.start_time),
            "actor": actor,
            "request_id": request_id,
        }
        await self._page.append(kind=_REDEEMED, body=body)
        # One statement compares with the cap and counts: whoever comes at the same time waits for this row.
        if not (await self._page.execute(_COUNT, {"coupon_id": coupon_id})).rowcount:
            raise InvalidState(problem=f"The coupon {coupon_id!r} was redeemed as often as it may be, or withdrawn.")

    async def end(self, redemption_id: str, *, at: datetime, actor: str, request_id: str) -> Redemption:
        """As CouponBook."""
        names = self._page.names(redemption_id=redemption_id if redemption_id.isprintable() else "", at=at)
        if (await self._page.execute(_END, names)).rowcount:
            body = {"redemption_id": redemption_id, "actor": actor, "request_id": request_id}
            await self._page.append(kind=_ENDED, body=body)
        for redemption in await self.redemptions():
            if redemption.redemption_id == redemption_id:
                return redemption
        raise NotFound(what="redemption", name=redemption_id[:64])


def _redemption_from_row(row: Row[Any]) -> Redemption:
    return Redemption(
        redemption_id=row.redemption_id,
        coupon=coupon_from_content(row.coupon_id, row.content),
        start_time=row.start_time,
        redeem_time=row.redeem_time,
        end_time=row.end_time,
    )


_REDEMPTIONS = text("""
    SELECT redemption_id, coupon_id, content, start_time, redeem_time, end_time
    FROM billing.redemptions JOIN billing.coupons USING (coupon_id)
    WHERE organization_id = :organization_id ORDER BY redeem_time, redemption_id
""")
_ADD = text("""
    INSERT INTO billing.redemptions (organization_id, redemption_id, coupon_id, start_time, redeem_time)
    VALUES (:organization_id, :redemption_id, :coupon_id, :start_time, :redeem_time)
    ON CONFLICT (organization_id, coupon_id) DO NOTHING
""")
_COUNT = text("""
    UPDATE billing.coupons SET redemption_count = redemption_count + 1
    WHERE coupon_id = :coupon_id AND NOT is_withdrawn
      AND (redemptions_max IS NULL OR redemption_count < redemptions_max)
""")
_END = text("""
    UPDATE billing.redemptions SET end_time = :at
    WHERE organization_id = :organization_id AND redemption_id = :redemption_id AND end_time IS NULL
""")
