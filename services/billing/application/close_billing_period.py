"""Close billing period: the operator closes a period now, or has one that was closed looked at again."""

from __future__ import annotations

from datetime import datetime

from kit.clock import Clock, unix_microseconds
from kit.errors import InvalidField
from services.billing.application.make_cut import MakeCut, Order
from services.billing.application.ports.books import BookReader, Books
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.closing import Close, Cut, cut_by_hand
from services.billing.domain.invoices import Invoice
from services.billing.domain.requests import request_digest, require_request_id


class CloseBillingPeriod:
    """Closes a period by hand."""

    def __init__(
        self, books: Books, subscription_in_force: SubscriptionInForce, make_cut: MakeCut, clock: Clock
    ) -> None:
        self._books = books
        self._subscription_in_force = subscription_in_force
        self._make_cut = make_cut
        self._clock = clock

    async def __call__(
        self,
        organization_id: str,
        *,
        subscription_id: str = "",
        period_start: datetime | None = None,
        request_id: str,
        actor: str,
    ) -> Invoice | None:
        """The one invoice of closing the current period early, made now unless it was before; any number of callers
        get the same. None: there is nothing to invoice.

        subscription_id empty: the one in force. period_start: of another period, which is closed if it was not, and
        else looked at again: the invoice of what differs by now. A retry is answered with the invoice of the first
        time, also when its period has passed meanwhile. Raises OrganizationNotFound, NotFound, InvalidField for what
        is no period's start, RequestIdReused, InvalidState when the subscription kept changing, and
        DependencyUnavailable with nothing made.
        """
        require_request_id(request_id)
        said = [subscription_id, None if period_start is None else unix_microseconds(period_start)]
        # What nothing is said of stays out of the digest: so it is what it was before that could be said.
        digest = request_digest("CloseBillingPeriod", organization_id, *(said if any(said) else []))
        if not subscription_id:
            subscription_id = (await self._subscription_in_force(organization_id)).subscription.subscription_id
        async with self._books.read(organization_id) as book:
            answered = await book.requests.answer_to(request_id, digest)
            if answered is not None:
                return await _invoice(book, answered)
            cut = await self._cut(book, subscription_id, period_start)
        close: Close = await self._make_cut(
            organization_id, subscription_id, cut, Order(actor=actor, request_id=request_id, digest=digest)
        )
        async with self._books.read(organization_id) as book:
            return await _invoice(book, close.invoice_id)

    async def _cut(self, book: BookReader, subscription_id: str, period_start: datetime | None) -> Cut:
        timeline, now = await book.subscriptions.timeline(subscription_id), self._clock.now()
        if period_start is not None and period_start > now:
            raise InvalidField(field="period_start_time", problem="not a period of the subscription until now")
        period = timeline.period_at(now if period_start is None else period_start)
        if period_start is not None and period.start != period_start:
            raise InvalidField(field="period_start_time", problem="not where a period of the subscription begins")
        if timeline.end is not None and period.start >= timeline.end > timeline.start:
            raise InvalidField(field="period_start_time", problem="not a period of the subscription until now")
        made = [close.cut for close in await book.closes.of(subscription_id)]
        return cut_by_hand(timeline, made, period, now)


async def _invoice(book: BookReader, invoice_id: str) -> Invoice | None:
    return await book.invoices.get(invoice_id) if invoice_id else None
