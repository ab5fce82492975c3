"""End redemption: takes a discount off what begins from now on."""

from __future__ import annotations

from kit.clock import Clock
from services.billing.application.ports.books import Books
from services.billing.domain.coupons import Redemption
from services.billing.domain.requests import request_digest, require_request_id


class EndRedemption:
    """Ends a redeemed coupon before its time."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock

    async def __call__(self, organization_id: str, redemption_id: str, *, request_id: str, actor: str) -> Redemption:
        """The redemption, ended; its place under the coupon's cap stays taken. Idempotent. Raises NotFound and
        RequestIdReused.
        """
        require_request_id(request_id)
        digest = request_digest("EndRedemption", organization_id, redemption_id)
        async with self._books.open(organization_id) as book:
            made = await book.requests.answer_to(request_id, digest)
            ended = await book.coupons.end(redemption_id, at=self._clock.now(), actor=actor, request_id=request_id)
            if made is None:
                await book.requests.remember(request_id, digest, redemption_id)
            return ended
