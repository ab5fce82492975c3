"""Invoice events: our invoice follows the payment state of theirs."""

from __future__ import annotations

import structlog

from services.billing.application.follow_payment import FollowPayment
from services.billing.application.ports.books import Book
from services.billing.application.ports.collection import Collector
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.application.stripe_events.effects import ACTOR, Effect, Nothing
from services.billing.domain.payments import state_told
from services.billing.domain.stripe_objects import StripeInvoice

log = structlog.get_logger()


class FollowInvoice:
    """Handles what was finalized, paid, not paid, voided, given up."""

    def __init__(self, collector: Collector, follow_payment: FollowPayment) -> None:
        self._collector = collector
        self._follow_payment = follow_payment

    async def __call__(self, due: DueEvent) -> Nothing | Effect:
        """See effects.Handler."""
        theirs = await self._collector.look_up(due.object_id) if due.object_id else None
        if theirs is None:
            return Nothing("no such invoice at Stripe")
        if not theirs.organization_id or not theirs.invoice_id:
            return Nothing("not an invoice of ours")
        if state_told(theirs) is None:
            return Nothing(f"{theirs.status.value} at Stripe")

        async def apply(book: Book) -> str:
            return await self._follow(book, theirs)

        return Effect(theirs.organization_id, apply)

    async def _follow(self, book: Book, theirs: StripeInvoice) -> str:
        invoice = await book.invoices.get(theirs.invoice_id)
        if (theirs.total_minor, theirs.currency_code) != (invoice.total.minor, invoice.total.currency_code):
            log.error("stripe_total_differs", invoice_id=invoice.invoice_id, stripe_id=theirs.stripe_invoice_id)
            return "the total at Stripe is not the invoice's"
        if invoice.stripe_invoice_id not in ("", theirs.stripe_invoice_id):
            log.error("stripe_invoice_twice", invoice_id=invoice.invoice_id, stripe_id=theirs.stripe_invoice_id)
            return f"the invoice is {invoice.stripe_invoice_id} at Stripe"
        return await self._follow_payment(book, invoice, theirs, actor=ACTOR)
