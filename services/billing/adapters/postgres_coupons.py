"""Coupons in Postgres: they are the operator's, so the fleet role adds and withdraws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import AlreadyExists, NotFound
from kit.postgres.database import Database
from services.billing.adapters import operator_requests
from services.billing.adapters.coupon_content import coupon_from_content, coupon_to_content
from services.billing.domain.coupons import Coupon, CouponStanding


class PostgresCoupons:
    """Coupons over the tenant and the fleet role."""

    def __init__(self, tenant: Database, fleet: Database) -> None:
        self._tenant = tenant
        self._fleet = fleet

    async def get(self, coupon_id: str) -> CouponStanding:
        """As Coupons."""
        async with self._tenant.transaction() as connection:
            return await _get(connection, coupon_id)

    async def by_id(self, *, after: str, count: int) -> Sequence[CouponStanding]:
        """As Coupons."""
        async with self._tenant.transaction() as connection:
            rows = await connection.execute(_BY_ID, {"after": after, "count": count})
            return [_standing_from_row(row) for row in rows]

    async def create(self, coupon: Coupon, *, request_id: str, digest: bytes, actor: str) -> CouponStanding:
        """As Coupons."""
        async with self._fleet.transaction() as connection:
            if not await operator_requests.was_done(connection, request_id, digest):
                names = {
                    "coupon_id": coupon.coupon_id,
                    "content": coupon_to_content(coupon),
                    "redemptions_max": coupon.redemptions_max,
                    "redeem_by": coupon.redeem_by,
                }
                if not (await connection.execute(_ADD, names)).rowcount:
                    raise AlreadyExists(what="coupon", name=coupon.coupon_id)
                await operator_requests.remember(
                    connection, request_id, digest, method="CreateCoupon", subject=coupon.coupon_id, actor=actor
                )
            return await _get(connection, coupon.coupon_id)

    async def withdraw(self, coupon_id: str, *, request_id: str, digest: bytes, actor: str) -> CouponStanding:
        """As Coupons."""
        async with self._fleet.transaction() as connection:
            if not await operator_requests.was_done(connection, request_id, digest):
                await _get(connection, coupon_id)
                await connection.execute(_WITHDRAW, {"coupon_id": coupon_id})
                await operator_requests.remember(
                    connection, request_id, digest, method="WithdrawCoupon", subject=coupon_id, actor=actor
                )
            return await _get(connection, coupon_id)


async def _get(connection: AsyncConnection, coupon_id: str) -> CouponStanding:
    # It comes from callers; what is not printable may be no text that Postgres takes.
    names = {"coupon_id": coupon_id if coupon_id.isprintable() else ""}
    row = (await connection.execute(_COUPON, names)).one_or_none()
    if row is None:
        raise NotFound(what="coupon", name=coupon_id[:64])
    return _standing_from_row(row)


def _standing_from_row(row: Row[Any]) -> CouponStanding:
    return CouponStanding(
        coupon=coupon_from_content(row.coupon_id, row.content),
        redemption_count=row.redemption_count,
        is_withdrawn=row.is_withdrawn,
    )


_COUPON_COLUMNS = "SELECT coupon_id, content, redemption_count, is_withdrawn FROM billing.coupons"
_COUPON = text(f"{_COUPON_COLUMNS} WHERE coupon_id = :coupon_id")
_BY_ID = text(f"""{_COUPON_COLUMNS} WHERE coupon_id COLLATE "C" > :after ORDER BY coupon_id COLLATE "C" LIMIT :count""")
_ADD = text("""
    INSERT INTO billing.coupons (coupon_id, content, redemptions_max, redeem_by)
    VALUES (:coupon_id, :content, :redemptions_max, :redeem_by) ON CONFLICT (coupon_id) DO NOTHING
""").bindparams(bindparam("content", type_=JSONB))
_WITHDRAW = text("UPDATE billing.coupons SET is_withdrawn = true WHERE coupon_id = :coupon_id")
