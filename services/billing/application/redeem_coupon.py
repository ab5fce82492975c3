"""Redeem coupon: puts a discount on what an organization is charged from now on."""

from __future__ import annotations

from datetime import datetime

from kit.clock import Clock
from kit.errors import LimitExceeded
from kit.ids import new_id
from services.billing.application.ports.books import Book, Books
from services.billing.application.ports.coupons import Coupons
from services.billing.domain import limits
from services.billing.domain.catalog import FREE_PLAN
from services.billing.domain.coupons import Redemption, coverage_start, require_redeemable
from services.billing.domain.invoices import Invoice, LineKind
from services.billing.domain.periods import Period, period_at
from services.billing.domain.requests import request_digest, require_request_id

_INVOICES_LOOKED_AT = 60
"""The price of a year that is running is on one of the invoices since: twelve, and as many made early."""


class RedeemCoupon:
    """Redeems a coupon for an organization."""

    def __init__(self, books: Books, coupons: Coupons, clock: Clock) -> None:
        self._books = books
        self._coupons = coupons
        self._clock = clock

    async def __call__(self, organization_id: str, coupon_id: str, *, request_id: str, actor: str) -> Redemption:
        """The redemption. It counts from the current price on if that was not invoiced yet, else from the next one; on
        `free`, from now on. Idempotent. Raises NotFound, InvalidState when the coupon cannot be redeemed (any more),
        AlreadyExists when the organization has redeemed it before, LimitExceeded and RequestIdReused.
        """
        require_request_id(request_id)
        digest = request_digest("RedeemCoupon", organization_id, coupon_id)
        # Terms never change; whether it may still be redeemed is decided again where it is counted.
        standing = await self._coupons.get(coupon_id)
        now = self._clock.now()
        async with self._books.open(organization_id) as book:
            made = await book.requests.answer_to(request_id, digest)
            before = await book.coupons.redemptions()
            if made is not None:
                return next(each for each in before if each.redemption_id == made)
            require_redeemable(standing, now=now)
            if len(before) >= limits.REDEMPTIONS_MAX:
                raise LimitExceeded(what="redemptions", actual=len(before) + 1, maximum=limits.REDEMPTIONS_MAX)
            redemption = Redemption(
                redemption_id=new_id("red"),
                coupon=standing.coupon,
                start_time=await _coverage_start(book, now),
                redeem_time=now,
            )
            await book.requests.remember(request_id, digest, redemption.redemption_id)
            await book.coupons.redeem(redemption, actor=actor, request_id=request_id)
            return redemption


async def _coverage_start(book: Book, now: datetime) -> datetime:
    subscription = await book.subscriptions.in_force()
    if subscription is None or subscription.plan_id == FREE_PLAN:
        return now
    invoices = await book.invoices.newest_first(before=None, count=_INVOICES_LOOKED_AT)
    own = [each for each in invoices if each.subscription_id == subscription.subscription_id]
    invoiced = _invoiced_interval(own, now)
    if invoiced is not None:
        return coverage_start(now, invoiced, is_invoiced=True)
    return coverage_start(now, period_at(subscription.anchor, now), is_invoiced=False)


def _invoiced_interval(invoices: list[Invoice], now: datetime) -> Period | None:
    """The interval of now whose price was invoiced; None: it was not."""
    for invoice in invoices:
        for line in invoice.lines:
            if line.kind is LineKind.BASE_FEE and line.period.start <= now < line.period.end:
                return line.period
    return None
