"""Close billing period: finalizes the invoice of the current period."""

from __future__ import annotations

from dataclasses import replace

from kit.clock import Clock
from kit.errors import InvalidState
from kit.ids import new_id
from services.billing.application.ports.books import Book, Books
from services.billing.application.rate_period import RatePeriod
from services.billing.application.subscription_in_force import Standing, SubscriptionInForce
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.requests import request_digest, require_request_id


class CloseBillingPeriod:
    """Closes a period early."""

    def __init__(
        self, books: Books, subscription_in_force: SubscriptionInForce, rate_period: RatePeriod, clock: Clock
    ) -> None:
        self._books = books
        self._subscription_in_force = subscription_in_force
        self._rate_period = rate_period
        self._clock = clock

    async def __call__(self, organization_id: str, *, request_id: str, actor: str) -> Invoice:
        """The one invoice of the current period, made now unless it was before; any number of callers get the same.

        A retry is answered with the invoice of the first time, also when its period has passed meanwhile. Raises
        OrganizationNotFound, RequestIdReused, InvalidState when the plan changed at this very moment, and
        DependencyUnavailable with nothing made.
        """
        require_request_id(request_id)
        digest = request_digest("CloseBillingPeriod", organization_id)
        standing = await self._subscription_in_force(organization_id)
        async with self._books.open(organization_id) as book:
            made = await _made_before(book, standing, request_id, digest)
        if made is not None:
            return made
        # Rated before the books are opened again: nobody's lock waits for another service to answer.
        draft = await self._rate_period(standing)
        async with self._books.open(organization_id) as book:
            made = await _made_before(book, standing, request_id, digest)
            if made is not None:
                return made
            current = await book.subscriptions.in_force()
            if current is None or current.subscription_id != standing.subscription.subscription_id:
                raise InvalidState(problem="The subscription changed while its period was closed; close it again.")
            final = replace(
                draft, invoice_id=new_id("inv"), state=InvoiceState.FINALIZED, finalize_time=self._clock.now()
            )
            await book.requests.remember(request_id, digest, final.invoice_id)
            return await book.invoices.finalize(final, actor=actor, request_id=request_id)


async def _made_before(book: Book, standing: Standing, request_id: str, digest: bytes) -> Invoice | None:
    made = await book.requests.answer_to(request_id, digest)
    if made is not None:
        return await book.invoices.get(made)
    invoice = await book.invoices.of_period(standing.subscription.subscription_id, standing.period)
    if invoice is not None:
        await book.requests.remember(request_id, digest, invoice.invoice_id)
    return invoice
